"""Which frames a split holds, found once; what is not a frame is skipped with a reason."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v.yaml_io import load_yaml, number_array
from coop3d.geometry.carla import pose_to_opencv
from coop3d.types import SampleKey

log = logging.getLogger(__name__)

SPLITS = ("train", "validate", "test", "test_culver_city")


class Skipped(NamedTuple):
    """A folder entry that looked like a frame but cannot be used."""

    key: SampleKey
    reason: str


@dataclass(frozen=True)
class FrameEntry:
    """Files of one vehicle at one instant."""

    key: SampleKey
    yaml_path: Path
    image_paths: tuple[Path, ...]
    camera_names: tuple[str, ...]
    depth_paths: tuple[Path, ...] | None  # aligned with image_paths; None: no depth root was given
    pcd_path: Path | None

    @property
    def is_roadside_unit(self) -> bool:
        """V2XSet marks road-side units with negative ids; they can never be the reference."""
        return self.key.agent.startswith("-")

    def lidar_pose(self) -> NDArray[np.float64]:
        """[4, 4] ``T_world_rig`` in OpenCV axes, reading only this key of the YAML."""
        data = load_yaml(self.yaml_path, keys={"lidar_pose"})
        return pose_to_opencv(number_array(self.yaml_path, data, "lidar_pose", (6,)))


@dataclass(frozen=True)
class Instant:
    """All vehicles recorded at one tick of one scenario, ordered by numeric id."""

    scenario: str
    frame: str
    entries: tuple[FrameEntry, ...]


@dataclass
class OPV2VIndex:
    """Frames of one split of an OPV2V-like dataset.

    Folders that are not agents, files that are not frames (``data_protocol.yaml``) and frames without all
    ``cameras`` are passed over; the last are listed in `skipped` with their reason.

    Args:
        images_root: folder that holds the splits.
        split: one of train, validate, test, test_culver_city (any sub-folder name works).
        depth_root: folder of the same layout with ``{frame}_camera{i}_depth.npy``; None: no depth.
        cameras: names every frame must have.

    Raises:
        DataError: a root or split does not exist, or no usable frame was found.
    """

    images_root: Path
    split: str
    depth_root: Path | None = None
    cameras: tuple[str, ...] = ("camera0", "camera1", "camera2", "camera3")
    frames: list[FrameEntry] = field(init=False, repr=False)
    skipped: list[Skipped] = field(init=False, repr=False)
    _by_instant: dict[tuple[str, str], tuple[FrameEntry, ...]] | None = field(
        init=False, repr=False, default=None
    )

    def __post_init__(self) -> None:
        self.images_root = Path(self.images_root)
        self.depth_root = None if self.depth_root is None else Path(self.depth_root)
        self.cameras = tuple(self.cameras)
        split_dir = self.images_root / self.split
        if not split_dir.is_dir():
            there = sorted(p.name for p in self.images_root.iterdir()) if self.images_root.is_dir() else []
            found = f"this root holds {there[:8]}" if there else "the images root itself is missing or empty"
            raise DataError(
                f"{split_dir}: no such split folder ({found}); expected {{root}}/{{split}}/{{scenario}}/..."
                f"{'{agent}'}. Set the images root (machine.opv2v_images_root) to the folder holding {SPLITS}."
            )
        if self.depth_root is not None and not (self.depth_root / self.split).is_dir():
            raise DataError(
                f"{self.depth_root / self.split}: depth root has no such split folder; set "
                "machine.opv2v_depth_root to the folder of {split}/{scenario}/{agent}/*_depth.npy, or to null "
                "to work without depth."
            )
        self.frames, self.skipped = [], []
        for agent_dir in self._agent_dirs(split_dir):
            self._index_agent(agent_dir)
        self._report(split_dir)

    def __len__(self) -> int:
        return len(self.frames)

    @staticmethod
    def _agent_dirs(split_dir: Path) -> Iterator[Path]:
        for scenario in sorted(p for p in split_dir.iterdir() if p.is_dir()):
            agents = [p for p in scenario.iterdir() if p.is_dir() and _is_integer(p.name)]
            yield from sorted(agents, key=lambda p: int(p.name))

    def _index_agent(self, agent_dir: Path) -> None:
        scenario, agent = agent_dir.parent.name, agent_dir.name
        names = set(os.listdir(agent_dir))
        depth_dir = None
        depth_names: set[str] = set()
        if self.depth_root is not None:
            depth_dir = self.depth_root / self.split / scenario / agent
            depth_names = set(os.listdir(depth_dir)) if depth_dir.is_dir() else set()
        for name in sorted(n for n in names if n.endswith(".yaml") and n[:-5].isdigit()):
            frame = name[:-5]
            key = SampleKey(scenario, agent, frame)
            missing = [c for c in self.cameras if f"{frame}_{c}.png" not in names]
            if missing:
                self.skipped.append(Skipped(key, f"no photograph of {', '.join(missing)}"))
                continue
            depth_paths = None
            if depth_dir is not None:
                lacking = [c for c in self.cameras if f"{frame}_{c}_depth.npy" not in depth_names]
                if lacking:
                    self.skipped.append(Skipped(key, f"no depth of {', '.join(lacking)}"))
                    continue
                depth_paths = tuple(depth_dir / f"{frame}_{c}_depth.npy" for c in self.cameras)
            self.frames.append(
                FrameEntry(
                    key=key,
                    yaml_path=agent_dir / name,
                    image_paths=tuple(agent_dir / f"{frame}_{c}.png" for c in self.cameras),
                    camera_names=self.cameras,
                    depth_paths=depth_paths,
                    pcd_path=agent_dir / f"{frame}.pcd" if f"{frame}.pcd" in names else None,
                )
            )

    def _report(self, split_dir: Path) -> None:
        if self.skipped:
            reasons = Counter(s.reason for s in self.skipped)
            listing = "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common(5))
            log.warning(
                "%s: skipped %d of %d frames (%s); first: %s",
                split_dir, len(self.skipped), len(self.skipped) + len(self.frames), listing,
                self.skipped[0].key,
            )  # fmt: skip
        if not self.frames:
            raise DataError(
                f"{split_dir}: no usable frame ({len(self.skipped)} skipped"
                + (f", e.g. {self.skipped[0].key}: {self.skipped[0].reason}" if self.skipped else "")
                + "); expected {scenario}/{agent}/{frame:06d}.yaml with _camera0.png .. _camera3.png beside it"
            )

    @cached_property
    def instants(self) -> list[Instant]:
        """Frames grouped by (scenario, tick). A vehicle without that tick is simply not in the group."""
        groups: dict[tuple[str, str], list[FrameEntry]] = {}
        for entry in self.frames:
            groups.setdefault((entry.key.scenario, entry.key.frame), []).append(entry)
        return [Instant(s, f, tuple(entries)) for (s, f), entries in sorted(groups.items())]

    def partners_of(self, entry: FrameEntry) -> tuple[FrameEntry, ...]:
        """The other vehicles recorded at the same instant, by numeric id."""
        if self._by_instant is None:
            self._by_instant = {(i.scenario, i.frame): i.entries for i in self.instants}
        at_once = self._by_instant[entry.key.scenario, entry.key.frame]
        return tuple(e for e in at_once if e.key != entry.key)

    @cached_property
    def T_world_rig(self) -> dict[SampleKey, NDArray[np.float64]]:
        """Pose of every frame (OpenCV axes). A frame whose pose cannot be read is moved to `skipped`."""
        poses, good = {}, []
        for entry in tqdm(self.frames, "reading poses", unit="frame", disable=len(self.frames) < 2000):
            try:
                poses[entry.key] = entry.lidar_pose()
                good.append(entry)
            except DataError as error:
                log.warning("skipped: %s", error)
                self.skipped.append(Skipped(entry.key, str(error)))
        self.frames = good
        self.__dict__.pop("instants", None)
        self._by_instant = None
        return poses


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdigit()
