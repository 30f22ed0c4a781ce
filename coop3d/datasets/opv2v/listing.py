"""Lists the frames of a split from its folders, without opening a file."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from coop3d.datasets.opv2v.entry import DEPTH_KINDS, FrameEntry, depth_name, image_name
from coop3d.datasets.opv2v.poses import LidarPoses
from coop3d.types import SampleKey

AUTO = "auto"
_PHOTOGRAPH = re.compile(r"(\d+)_(camera\d+)\.png")


class Skipped(NamedTuple):
    """A folder entry that looked like a frame but cannot be used."""

    key: SampleKey
    reason: str


@dataclass
class Listing:
    """What the folders of a split hold."""

    frames: list[FrameEntry] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)  # all that were listed, existing or not
    poses: LidarPoses | None = None  # of ``frames``; None: not read yet


def list_split(split_dir: Path, depth_dir: Path | None, cameras: Sequence[str]) -> Listing:
    """Every frame below ``{split_dir}/{scenario}/{agent}``, by scenario, numeric agent id and frame.

    Args:
        split_dir: of the photographs.
        depth_dir: folder of the same layout with depth; None: only 8-bit depth beside the photographs.
        cameras: names every frame must have, or `AUTO`.
    """
    listing = Listing(folders=[split_dir])
    for scenario in sorted(p for p in split_dir.iterdir() if p.is_dir()):
        listing.folders.append(scenario)
        agents = [p for p in scenario.iterdir() if _is_integer(p.name) and p.is_dir()]
        for agent_dir in sorted(agents, key=lambda p: int(p.name)):
            agent_depth = None if depth_dir is None else depth_dir / scenario.name / agent_dir.name
            _list_agent(listing, agent_dir, agent_depth, cameras)
    return listing


def _list_agent(listing: Listing, folder: Path, depth_folder: Path | None, cameras: Sequence[str]) -> None:
    names = _names(listing, folder)
    depth_names = set() if depth_folder is None else _names(listing, depth_folder)
    found = _cameras_on_disk(names) if cameras == AUTO else {}
    for name in sorted(n for n in names if n.endswith(".yaml") and n[:-5].isdigit()):
        frame = name[:-5]
        key = SampleKey(folder.parent.name, folder.name, frame)
        wanted = found.get(frame, ()) if cameras == AUTO else tuple(cameras)
        missing = [c for c in wanted if image_name(frame, c) not in names]
        if missing or not wanted:
            listing.skipped.append(Skipped(key, f"no photograph of {', '.join(missing) or 'any camera'}"))
            continue
        depth = next(_depth(frame, wanted, folder, names, depth_folder, depth_names), None)
        has_cloud = f"{frame}.pcd" in names
        if depth is None and depth_folder is not None and not has_cloud:
            lacking = [c for c in wanted if depth_name(frame, c, "npy") not in depth_names]
            listing.skipped.append(Skipped(key, f"no depth of {', '.join(lacking)}, and no cloud"))
            continue
        listing.frames.append(
            FrameEntry(
                key=key,
                folder=folder,
                camera_names=wanted,
                has_cloud=has_cloud,
                depth_folder=depth[0] if depth else None,
                depth_kind=depth[1] if depth else DEPTH_KINDS[0],
                any_rig=cameras == AUTO,
            )
        )


def _names(listing: Listing, folder: Path) -> set[str]:
    listing.folders.append(folder)
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _cameras_on_disk(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Cameras of each frame, by number."""
    found: dict[str, list[str]] = {}
    for match in filter(None, map(_PHOTOGRAPH.fullmatch, names)):
        found.setdefault(match[1], []).append(match[2])
    return {frame: tuple(sorted(c, key=lambda n: int(n[6:]))) for frame, c in found.items()}


def _depth(
    frame: str,
    cameras: Sequence[str],
    folder: Path,
    names: Collection[str],
    depth_folder: Path | None,
    depth_names: Collection[str],
) -> Iterator[tuple[Path, str]]:
    """(folder, kind) of complete sets of depth files, the best first: exact before rounded."""
    for kind in DEPTH_KINDS:
        if depth_folder is not None and all(depth_name(frame, c, kind) in depth_names for c in cameras):
            yield depth_folder, kind
    if all(
        depth_name(frame, c, "png") in names for c in cameras
    ):  # other releases keep them beside the photographs
        yield folder, "png"


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdigit()
