"""One vehicle at one instant: which files it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.opv2v.poses import read_lidar_pose
from coop3d.geometry.carla import pose_to_opencv
from coop3d.types import SampleKey

DEPTH_KINDS = ("npy", "png")  # exact float32 metres; 8-bit whole metres


@dataclass(frozen=True)
class FrameEntry:
    """Files of one vehicle at one instant. Paths are made when asked for: an index holds tens of thousands.

    Attributes:
        key: scenario, agent, frame.
        folder: of the YAML, photographs and cloud.
        camera_names: cameras of this frame, in their order.
        has_cloud: a ``.pcd`` lies beside the YAML.
        depth_folder: of the depth files; None: there are none.
        depth_kind: ``npy`` (``{frame}_camera{i}_depth.npy``) or ``png`` (``{frame}_depth{i}.png``).
        any_rig: the cameras were taken as found, so photographs of one rig may differ in size.
    """

    key: SampleKey
    folder: Path
    camera_names: tuple[str, ...]
    has_cloud: bool
    depth_folder: Path | None = None
    depth_kind: str = "npy"
    any_rig: bool = False

    @property
    def yaml_path(self) -> Path:
        """Poses and calibration."""
        return self.folder / f"{self.key.frame}.yaml"

    @property
    def image_paths(self) -> tuple[Path, ...]:
        """Photographs, in the order of ``camera_names``."""
        return tuple(self.folder / image_name(self.key.frame, c) for c in self.camera_names)

    @property
    def depth_paths(self) -> tuple[Path, ...] | None:
        """Depth files, in the order of ``camera_names``; None: there are none."""
        if self.depth_folder is None:
            return None
        return tuple(
            self.depth_folder / depth_name(self.key.frame, c, self.depth_kind) for c in self.camera_names
        )

    @property
    def depth_is_rounded(self) -> bool:
        """Depth files hold whole metres only."""
        return self.depth_folder is not None and self.depth_kind == "png"

    @property
    def pcd_path(self) -> Path | None:
        """LiDAR cloud, if there is one."""
        return self.folder / f"{self.key.frame}.pcd" if self.has_cloud else None

    def lidar_pose(self) -> NDArray[np.float64]:
        """[4, 4] ``T_world_rig`` in OpenCV axes, reading only this key of the YAML."""
        return pose_to_opencv(read_lidar_pose(self.yaml_path))


def image_name(frame: str, camera: str) -> str:
    """File name of a photograph."""
    return f"{frame}_{camera}.png"


def depth_name(frame: str, camera: str, kind: str) -> str:
    """File name of a depth image of one of `DEPTH_KINDS`."""
    return (
        f"{frame}_{camera}_depth.npy"
        if kind == "npy"
        else f"{frame}_depth{camera.removeprefix('camera')}.png"
    )
