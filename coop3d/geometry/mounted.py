"""A camera as its vehicle sees it: the pixels of the one, directions in the frame of the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from coop3d.geometry.cameras import Array, Camera


@dataclass(frozen=True, eq=False)
class MountedCamera:
    """Another camera, turned: its rays in the frame of whatever it is mounted on.

    Frames share their origin: where the camera sits is not in here (a `Panorama` holds it in ``origins``), so points
    to project must be given relative to its centre.

    Attributes:
        camera: in its own frame.
        R_mount_cam: [3, 3] rotation, turns directions of the camera into the mount's frame.

    Raises:
        ValueError: ``R_mount_cam`` is no rotation.
    """

    camera: Camera
    R_mount_cam: NDArray[np.float64]

    def __post_init__(self) -> None:
        R = np.array(self.R_mount_cam, dtype=np.float64)  # a copy: rays are kept
        is_rotation = (
            R.shape == (3, 3) and np.allclose(R @ R.T, np.eye(3), atol=1e-6) and np.linalg.det(R) > 0
        )
        if not is_rotation:
            raise ValueError(f"R_mount_cam is {R.tolist()}, expected a 3 x 3 rotation")
        object.__setattr__(self, "R_mount_cam", R)

    @property
    def width(self) -> int:
        """Pixels."""
        return self.camera.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self.camera.height

    def directions(self, uv: Array) -> Array:
        """[..., 2] continuous pixel coordinates to [..., 3] unit rays in the mount's frame."""
        rays = self.camera.directions(uv)
        return rays @ array_namespace(rays).asarray(self.R_mount_cam.T, dtype=rays.dtype)

    def project(self, points: Array) -> tuple[Array, Array]:
        """[..., 3] points relative to the camera's centre, in the mount's frame, to (uv, inside)."""
        return self.camera.project(
            points @ array_namespace(points).asarray(self.R_mount_cam, dtype=points.dtype)
        )

    def rays(self) -> NDArray[np.float64]:
        """[H, W, 3] unit rays through the pixel centres (read-only), in the mount's frame."""
        return self._rays

    @cached_property
    def _rays(self) -> NDArray[np.float64]:
        rays = self.camera.rays() @ self.R_mount_cam.T
        rays.setflags(write=False)
        return rays
