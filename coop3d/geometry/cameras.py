"""Camera models: one class per model, which alone knows its projection formulae.

All use OpenCV axes (x right, y down, z forward) and continuous pixel coordinates ``uv`` = (right, down) in
which the centre of the first pixel is (0.5, 0.5). Methods taking points or ``uv`` accept numpy or torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from coop3d.geometry.distortion import check_coefficients, distort, undistort

Array = Any  # a numpy array or a torch tensor; the same kind comes back


@runtime_checkable
class Camera(Protocol):
    """What every camera model offers."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...

    def directions(self, uv: Array) -> Array:
        """[..., 2] continuous pixel coordinates to [..., 3] unit rays in the camera frame."""
        ...

    def project(self, points: Array) -> tuple[Array, Array]:
        """[..., 3] points in the camera frame to ([..., 2] uv, [...] bool: inside the image)."""
        ...

    def rays(self) -> NDArray[np.float64]:
        """[H, W, 3] unit rays through the pixel centres (read-only)."""
        ...


def pixel_centres(width: int, height: int) -> NDArray[np.float64]:
    """[H, W, 2] ``uv`` of every pixel centre: (0.5, 0.5) first."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([u, v], axis=-1)


@lru_cache(maxsize=32)
def _pixel_rays(camera: Camera) -> NDArray[np.float64]:
    rays = camera.directions(pixel_centres(camera.width, camera.height))
    rays.setflags(write=False)
    return rays


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"camera size is {width} x {height}, expected at least 1 x 1 pixels")


@dataclass(frozen=True)
class PinholeCamera:
    """Perspective camera; focal lengths and principal point in pixels.

    ``distortion`` holds OpenCV's k1, k2, p1, p2[, k3[, k4, k5, k6]]; () means none. Directions beyond the radius
    where the distortion stops growing are not seen, and pixels that no direction maps to have NaN rays.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_size(self.width, self.height)
        object.__setattr__(self, "distortion", tuple(float(k) for k in self.distortion))  # hashable
        check_coefficients(self.distortion)
        if not (self.fx > 0 and self.fy > 0 and math.isfinite(self.fx + self.fy + self.cx + self.cy)):
            raise ValueError(f"pinhole intrinsics must be finite with fx, fy > 0, found {self}")

    @classmethod
    def from_matrix(
        cls, K: NDArray[np.floating], width: int, height: int, distortion: Sequence[float] = ()
    ) -> PinholeCamera:
        """From a 3x3 intrinsic matrix; refuses skew and a last row other than (0, 0, 1)."""
        K = np.asarray(K, dtype=np.float64)
        if K.shape != (3, 3):
            raise ValueError(f"intrinsic matrix has shape {K.shape}, expected (3, 3)")
        if not np.allclose([K[0, 1], K[1, 0], *K[2]], [0, 0, 0, 0, 1], atol=1e-6):
            raise ValueError(f"intrinsic matrix {K.tolist()} has skew or a last row other than (0, 0, 1)")
        fx, fy, cx, cy = (float(K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        return cls(width, height, fx, fy, cx, cy, tuple(distortion))

    @classmethod
    def from_hfov(cls, width: int, height: int, hfov_deg: float) -> PinholeCamera:
        """Square pixels, centred principal point, given horizontal field of view (CARLA's way)."""
        f = width / (2.0 * math.tan(math.radians(hfov_deg) / 2.0))
        return cls(width, height, f, f, width / 2.0, height / 2.0)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """[3, 3] intrinsic matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def _normalised(self, uv: Array) -> tuple[Array, Array]:
        """x / z and y / z of the rays at ``uv``."""
        x = (uv[..., 0] - self.cx) / self.fx
        y = (uv[..., 1] - self.cy) / self.fy
        return undistort(x, y, self.distortion) if self.distortion else (x, y)

    def directions(self, uv: Array) -> Array:
        """[..., 2] uv to [..., 3] unit rays."""
        xp = array_namespace(uv)
        x, y = self._normalised(uv)
        norm = xp.sqrt(x * x + y * y + 1.0)
        return xp.stack([x / norm, y / norm, 1.0 / norm], axis=-1)

    def range_per_z(self, uv: Array) -> Array:
        """[...] factor that turns planar z-depth at ``uv`` into range along the ray (>= 1)."""
        xp = array_namespace(uv)
        x, y = self._normalised(uv)
        return xp.sqrt(x * x + y * y + 1.0)

    def project(self, points: Array) -> tuple[Array, Array]:
        """[..., 3] to (uv, inside).

        Points at or behind the image plane, or beyond what the distortion describes, get uv = NaN and inside = False.
        """
        xp = array_namespace(points)
        z = points[..., 2]
        in_front = z > 1e-9
        safe_z = xp.where(in_front, z, xp.full_like(z, math.nan))
        x, y = points[..., 0] / safe_z, points[..., 1] / safe_z
        if self.distortion:
            x, y = distort(x, y, self.distortion)
        u = x * self.fx + self.cx
        v = y * self.fy + self.cy
        inside = in_front & (u >= 0) & (u < self.width) & (v >= 0) & (v < self.height)
        return xp.stack([u, v], axis=-1), inside

    def rays(self) -> NDArray[np.float64]:
        """[H, W, 3] unit rays through the pixel centres (read-only)."""
        return _pixel_rays(self)


@dataclass(frozen=True)
class _Panoramic:
    """Full-circle camera: azimuth is linear in the column, subclasses say what is linear in the row.

    The column at continuous coordinate u has azimuth ``2 pi (u / W - 0.5)``: 0 is forward, positive to the
    right, and the seam is behind.
    """

    width: int
    height: int
    vfov_deg: float = 90.0
    elevation_center_deg: float = 0.0

    def __post_init__(self) -> None:
        _check_size(self.width, self.height)
        limit = abs(self.elevation_center_deg) + self.vfov_deg / 2.0
        if self.vfov_deg <= 0 or limit > 90.0 + 1e-9:
            raise ValueError(
                f"vertical field of view {self.vfov_deg} deg centred on {self.elevation_center_deg} deg is "
                "outside what a panorama can show (elevation -90 to 90 deg)"
            )

    @property
    def _elevation_top(self) -> float:
        return math.radians(self.elevation_center_deg + self.vfov_deg / 2.0)

    @property
    def _elevation_bottom(self) -> float:
        return math.radians(self.elevation_center_deg - self.vfov_deg / 2.0)

    def _elevation_of_row(self, v: Array) -> Array:
        raise NotImplementedError

    def _row_of_direction(self, up: Array, horizontal: Array) -> Array:
        raise NotImplementedError

    def directions(self, uv: Array) -> Array:
        """[..., 2] uv to [..., 3] unit rays; columns wrap around."""
        xp = array_namespace(uv)
        azimuth = 2.0 * math.pi * (uv[..., 0] / self.width - 0.5)
        elevation = self._elevation_of_row(uv[..., 1])
        c = xp.cos(elevation)
        return xp.stack([c * xp.sin(azimuth), -xp.sin(elevation), c * xp.cos(azimuth)], axis=-1)

    def project(self, points: Array) -> tuple[Array, Array]:
        """[..., 3] to (uv, inside); u in [0, W). On the vertical axis the azimuth is taken as forward."""
        xp = array_namespace(points)
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        horizontal = xp.hypot(x, z)
        azimuth = xp.atan2(x, z)
        u = (azimuth / (2.0 * math.pi) + 0.5) * self.width  # in [0, W], up to rounding on both sides
        u = xp.where((u < 0) | (u >= self.width), xp.zeros_like(u), u)
        v = self._row_of_direction(-y, horizontal)
        inside = (v >= 0) & (v < self.height) & ((horizontal > 0) | (y != 0))
        return xp.stack([u, v], axis=-1), inside

    def rays(self) -> NDArray[np.float64]:
        """[H, W, 3] unit rays through the pixel centres (read-only)."""
        return _pixel_rays(self)


@dataclass(frozen=True)
class EquirectangularCamera(_Panoramic):
    """Panorama whose rows are linear in elevation (square pixels when vfov / H = 360 / W)."""

    def _elevation_of_row(self, v: Array) -> Array:
        top, bottom = self._elevation_top, self._elevation_bottom
        return top + (bottom - top) * (v / self.height)

    def _row_of_direction(self, up: Array, horizontal: Array) -> Array:
        xp = array_namespace(up)
        top, bottom = self._elevation_top, self._elevation_bottom
        return (xp.atan2(up, horizontal) - top) / (bottom - top) * self.height


@dataclass(frozen=True)
class CylindricalCamera(_Panoramic):
    """True cylinder: rows are linear in tan(elevation), so vertical lines keep their proportions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if abs(self.elevation_center_deg) + self.vfov_deg / 2.0 > 89.9:
            raise ValueError(
                f"a cylinder cannot reach the poles: vertical field of view {self.vfov_deg} deg centred on "
                f"{self.elevation_center_deg} deg; use EquirectangularCamera or a smaller field of view"
            )

    def _elevation_of_row(self, v: Array) -> Array:
        xp = array_namespace(v)
        top, bottom = math.tan(self._elevation_top), math.tan(self._elevation_bottom)
        return xp.atan(top + (bottom - top) * (v / self.height))

    def _row_of_direction(self, up: Array, horizontal: Array) -> Array:
        xp = array_namespace(up)
        top, bottom = math.tan(self._elevation_top), math.tan(self._elevation_bottom)
        safe = xp.where(horizontal > 0, horizontal, xp.full_like(horizontal, 1e-300))
        return (up / safe - top) / (bottom - top) * self.height


PanoramaCamera = EquirectangularCamera | CylindricalCamera
PROJECTIONS: dict[str, type[EquirectangularCamera] | type[CylindricalCamera]] = {
    "equirectangular": EquirectangularCamera,
    "cylindrical": CylindricalCamera,
}
