"""Where the sensors of a vehicle sit and how wide its cameras see.

All poses are UE axes (left-handed: x forward, y right, z up). A camera's own frame is a UE actor frame too: x along
the optical axis, y to the right of the picture, z up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop3d.geometry.carla import carla_pose_to_matrix

Pose = tuple[float, float, float, float, float, float]
"""x, y, z in metres, roll, yaw, pitch in degrees."""


@dataclass(frozen=True, kw_only=True)
class Rig:
    """Four cameras and a LiDAR.

    Attributes:
        cameras: poses in the vehicle frame: front, right, left, back.
        lidar: pose in the vehicle frame.
        horizontal_fov_deg: of every camera.
    """

    cameras: tuple[Pose, Pose, Pose, Pose]
    lidar: Pose
    horizontal_fov_deg: float

    def T_vehicle_camera(self, camera: int) -> NDArray[np.float64]:
        """[4, 4] nominal pose of a camera in the vehicle frame."""
        return carla_pose_to_matrix(self.cameras[camera])

    def T_vehicle_lidar(self) -> NDArray[np.float64]:
        """[4, 4] nominal pose of the LiDAR in the vehicle frame."""
        return carla_pose_to_matrix(self.lidar)

    def intrinsic(self, image_size: tuple[int, int]) -> NDArray[np.float64]:
        """[3, 3] pinhole matrix for (width, height); pixel centres lie at half-integers, square pixels."""
        w, h = image_size
        f = w / (2.0 * np.tan(np.radians(self.horizontal_fov_deg) / 2.0))
        return np.array([[f, 0.0, w / 2.0], [0.0, f, h / 2.0], [0.0, 0.0, 1.0]])


OPV2V_RIG = Rig(
    cameras=(
        (2.5, 0.0, 1.0, 0.0, 0.0, 0.0),
        (0.0, 0.3, 1.8, 0.0, 100.0, 0.0),
        (0.0, -0.3, 1.8, 0.0, -100.0, 0.0),
        (-2.0, 0.0, 1.5, 0.0, 180.0, 0.0),
    ),
    lidar=(-0.5, 0.0, 1.9, 0.0, 0.0, 0.0),
    horizontal_fov_deg=100.0,
)
# On the roof of a van, as somebody else's brackets hold it: higher, nearer to each other, tilted, wider lenses.
ROOF_RIG = Rig(
    cameras=(
        (1.1, 0.05, 2.55, 0.5, 1.0, -5.0),
        (0.2, 0.75, 2.6, 1.5, 93.0, -4.0),
        (0.2, -0.75, 2.6, -1.0, -92.0, -6.0),
        (-2.1, -0.05, 2.65, -0.5, 179.0, -3.0),
    ),
    lidar=(-0.3, 0.0, 2.85, 0.0, 0.0, 0.0),
    horizontal_fov_deg=110.0,
)
