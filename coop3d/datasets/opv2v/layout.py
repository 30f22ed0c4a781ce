"""Folders that hold the layout of a split alone: YAML, and no photographs, or not all of them yet.

Such a split is marked by a file, so that it is not taken for data with holes. Who stands where is all that a frame
contract needs, and `LayoutIndex` gives just that; nothing can be loaded from its entries.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from coop3d.datasets.entries import Instant, group_instants
from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v.entry import FrameEntry
from coop3d.datasets.opv2v.poses import read_lidar_poses
from coop3d.geometry.carla import carla_poses_to_matrices, carla_to_opencv
from coop3d.types import SampleKey

LAYOUT_MARK = "LAYOUT_ONLY.txt"


def is_layout_only(split_dir: Path) -> bool:
    """Whether a split is marked as a layout."""
    return (split_dir / LAYOUT_MARK).exists()


def refuse_layout(split_dir: Path) -> None:
    """Stop a reader of photographs before it finds that they are missing.

    Raises:
        DataError: the split is a layout.
    """
    if is_layout_only(split_dir):
        raise DataError(
            f"{split_dir}: holds a layout (YAML only; {LAYOUT_MARK} says so), expected photographs, too. Make them "
            "with the command that made the layout, without --layout-only: it goes on in the same folder."
        )


class LayoutIndex:
    """Vehicles of one split and where they stood, from YAML alone; ordered as in `OPV2VIndex`.

    Args:
        images_root: folder that holds the splits.
        split: sub-folder.

    Raises:
        DataError: there is no YAML, or one without a pose that can be read.
    """

    def __init__(self, images_root: Path, split: str) -> None:
        self.split = split
        folder = Path(images_root) / split
        paths = [p for p in folder.glob("*/*/*.yaml") if p.stem.isdigit()]
        if not paths:
            raise DataError(
                f"{folder}: no {{scenario}}/{{agent}}/{{frame:06d}}.yaml there, expected a layout"
            )
        paths.sort(key=lambda p: (p.parts[-3], int(p.parts[-2]), p.stem))
        self.frames = [
            FrameEntry(SampleKey(p.parts[-3], p.parts[-2], p.stem), p.parent, (), has_cloud=False)
            for p in paths
        ]
        poses = read_lidar_poses(paths)
        for error in poses.errors.values():
            raise DataError(error)
        matrices = carla_to_opencv(carla_poses_to_matrices(poses.values))
        keys = [entry.key for entry in self.frames]
        self.T_world_rig = dict(zip(keys, matrices, strict=True))  # [4, 4] each, OpenCV axes

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def instants(self) -> list[Instant[FrameEntry]]:
        """As of `OPV2VIndex`."""
        return group_instants(self.frames)
