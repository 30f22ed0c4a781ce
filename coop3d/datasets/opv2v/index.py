"""Which frames a split holds, found once; what is not a frame is skipped with a reason."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.entries import Instant, group_instants
from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v.entry import FrameEntry
from coop3d.datasets.opv2v.index_cache import IndexCache
from coop3d.datasets.opv2v.layout import refuse_layout
from coop3d.datasets.opv2v.listing import AUTO, Skipped, list_split
from coop3d.datasets.opv2v.poses import LidarPoses, read_lidar_poses
from coop3d.geometry.carla import carla_poses_to_matrices, carla_to_opencv
from coop3d.types import SampleKey

log = logging.getLogger(__name__)

SPLITS = ("train", "validate", "test", "test_culver_city")
DEFAULT_CAMERAS = ("camera0", "camera1", "camera2", "camera3")


@dataclass
class OPV2VIndex:
    """Frames of one split of an OPV2V-like dataset.

    Folders that are not agents, files that are not frames (``data_protocol.yaml``), frames without all ``cameras`` and,
    where a depth root is given, frames with neither depth nor a cloud are passed over; the frames are listed in
    `skipped` with their reason.

    The pose of every frame is read, too (30 000 take a few seconds); frames without a readable one are skipped as
    well. The index is kept in the user's cache folder, see `IndexCache`, and reused while nothing changed.

    Args:
        images_root: folder that holds the splits.
        split: one of train, validate, test, test_culver_city (any sub-folder name works).
        depth_root: folder of the same layout with ``{frame}_camera{i}_depth.npy`` or ``{frame}_depth{i}.png``; None:
            only the latter, beside the photographs.
        cameras: names every frame must have, or ``auto``: each frame has the ``camera{number}`` it has on disk.
        needs_depth: skip frames without depth files, also those with a cloud (for ``depth_source=dense``).

    Raises:
        DataError: a root or split does not exist, the split is a layout without photographs, or no usable frame
            was found.
        ValueError: ``cameras`` is empty, or no list of names.
    """

    images_root: Path
    split: str
    depth_root: Path | None = None
    cameras: Sequence[str] = DEFAULT_CAMERAS  # a tuple, or AUTO
    needs_depth: bool = False
    frames: list[FrameEntry] = field(init=False, repr=False)
    skipped: list[Skipped] = field(init=False, repr=False)
    # [4, 4] of every frame, OpenCV axes
    T_world_rig: dict[SampleKey, NDArray[np.float64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.images_root = Path(self.images_root)
        self.depth_root = None if self.depth_root is None else Path(self.depth_root)
        if self.cameras != AUTO:
            if isinstance(self.cameras, str) or not self.cameras:
                raise ValueError(
                    f"cameras is {self.cameras!r}, expected {AUTO!r} or a list such as [camera0, camera1]"
                )
            self.cameras = tuple(self.cameras)
        split_dir = self._split_folder()
        depth_dir = None if self.depth_root is None else self.depth_root / self.split
        cache = IndexCache(split_dir, depth_dir, self.cameras)
        listing = cache.load() or list_split(split_dir, depth_dir, self.cameras)
        if listing.poses is None:
            listing.poses = read_lidar_poses([entry.yaml_path for entry in listing.frames])
            cache.save(listing)
        self.frames, self.skipped = listing.frames, list(listing.skipped)
        self._place(listing.poses)
        if self.needs_depth:
            self._require_depth()
        self._report(split_dir)

    def __len__(self) -> int:
        return len(self.frames)

    def _split_folder(self) -> Path:
        split_dir = self.images_root / self.split
        if not split_dir.is_dir():
            there = _folders(self.images_root)
            found = f"this root holds {there[:8]}" if there else "the images root itself is missing or empty"
            raise DataError(
                f"{split_dir}: no such split folder ({found}); expected {{root}}/{{split}}/{{scenario}}/{{agent}}. Set "
                f"the images root (machine.opv2v_images_root, --images-root) to the folder holding {SPLITS}."
            )
        refuse_layout(split_dir)
        if self.depth_root is not None and not (self.depth_root / self.split).is_dir():
            raise DataError(
                f"{self.depth_root / self.split}: depth root has no such split folder; set the depth root "
                "(machine.opv2v_depth_root, --depth-root) to the folder of "
                "{split}/{scenario}/{agent}/{frame}_camera{i}_depth.npy, or to null (no --depth-root; for one split "
                "dataset.{train,val,test}.source.depth_root=null) to take range from LiDAR."
            )
        return split_dir

    def _report(self, split_dir: Path) -> None:
        if self.skipped:
            reasons = Counter(
                s.reason if s.key.scenario in s.reason else f"{s.reason} in {s.key.scenario}"
                for s in self.skipped
            )
            listing = "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common(5))
            log.warning(
                "%s: skipped %d of %d frames (%s); first: %s",
                split_dir, len(self.skipped), len(self.skipped) + len(self.frames), listing,
                self.skipped[0].key,
            )  # fmt: skip
        if not self.frames:
            found = (
                f"{len(self.skipped)} skipped, e.g. {self.skipped[0].key}: {self.skipped[0].reason}"
                if self.skipped
                else _found_in(split_dir)
            )
            raise DataError(
                f"{split_dir}: no usable frame ({found}); expected "
                "{scenario}/{agent}/{frame:06d}.yaml with _camera0.png .. _camera3.png beside it"
            )
        if self.depth_root is not None and (bare := sum(e.depth_paths is None for e in self.frames)):
            log.warning(
                "%s: %d of %d frames have no depth files%s; their range is taken from LiDAR clouds.",
                split_dir, bare, len(self.frames), "" if bare < len(self.frames) else f" ({self._depth_found()})",
            )  # fmt: skip
        rounded = sum(entry.depth_is_rounded for entry in self.frames)
        if rounded:
            log.warning(
                "%s: depth of %d frames is 8-bit PNG of whole metres (up to 0.5 m off, none beyond 254 m). It is used "
                "only with depth_source=dense, or where a frame has no LiDAR cloud; prefer the clouds "
                "(depth_source=fused).", split_dir, rounded,
            )  # fmt: skip

    def _depth_found(self) -> str:
        return "no depth root is set" if self.depth_root is None else _found_in(self.depth_root / self.split)

    def _require_depth(self) -> None:
        without = [entry for entry in self.frames if entry.depth_paths is None]
        if without and len(without) == len(self.frames):
            raise DataError(
                f"{self.images_root / self.split}: depth_source=dense needs depth files, but none of {len(without)} "
                f"frames has any ({self._depth_found()}); set the depth root (machine.opv2v_depth_root, --depth-root), "
                "or use depth_source=auto, lidar or fused"
            )
        self.skipped += [Skipped(entry.key, "no depth files (depth_source=dense)") for entry in without]
        for entry in without:
            del self.T_world_rig[entry.key]
        self.frames = [entry for entry in self.frames if entry.depth_paths is not None]

    def _place(self, poses: LidarPoses) -> None:
        """Keep the frames whose pose could be read, with it."""
        matrices = carla_to_opencv(carla_poses_to_matrices(poses.values))
        self.T_world_rig, placed = {}, []
        for i, (entry, T) in enumerate(zip(self.frames, matrices, strict=True)):
            if i in poses.errors:
                log.warning("skipped: %s", poses.errors[i])
                self.skipped.append(Skipped(entry.key, poses.errors[i]))
            else:
                self.T_world_rig[entry.key] = T
                placed.append(entry)
        self.frames = placed

    @cached_property
    def instants(self) -> list[Instant[FrameEntry]]:
        """Frames grouped by (scenario, tick). A vehicle without that tick is simply not in the group."""
        return group_instants(self.frames)

    def partners_of(self, entry: FrameEntry) -> tuple[FrameEntry, ...]:
        """The other vehicles recorded at the same instant, by numeric id."""
        at_once = self._by_instant[entry.key.scenario, entry.key.frame]
        return tuple(e for e in at_once if e.key != entry.key)

    @cached_property
    def _by_instant(self) -> dict[tuple[str, str], tuple[FrameEntry, ...]]:
        return {(i.scenario, i.frame): i.entries for i in self.instants}


def _folders(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def _found_in(folder: Path) -> str:
    """What lies below a folder that holds nothing of use: the first file tells swapped roots and one level too many."""
    files = (Path(here, name) for here, _, names in os.walk(folder) for name in names if name[0] != ".")
    first = next(files, None)
    return f"{folder} holds no file" if first is None else f"found e.g. {first}"
