"""Sun, sky and shadows of one scenario.

Shadow rays are cast at reduced cost: one per cell of a fixed grid on the ground, all parallel to the sun, recording
the height of the first surface each ray meets. A shaded point follows the sun's direction to its cell and is in
shadow if it lies below that surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.random import Generator
from numpy.typing import NDArray

SHADOW_CELL_M = 0.125
SHADOW_HALF_M = 150.0
_NOTHING = -1e6


@dataclass(frozen=True)
class Light:
    """Colours are linear RGB, directions unit vectors in UE world axes."""

    sun_direction: NDArray[np.float64]  # [3] towards the sun
    sun: NDArray[np.float64]  # [3]
    ambient_up: NDArray[np.float64]  # [3] light on surfaces that look up
    ambient_down: NDArray[np.float64]
    zenith: NDArray[np.float64]
    horizon: NDArray[np.float64]
    haze_m: float  # distance at which a quarter of the contrast is lost
    cloud_cover: float  # 0..1
    cloud_offset: NDArray[np.float64]  # [2]
    exposure: float


def make_light(rng: Generator) -> Light:
    """Draw a time of day and a sky."""
    elevation, azimuth = np.radians(rng.uniform(22, 65)), rng.uniform(0, 2 * np.pi)
    low = 1.0 - (elevation - np.radians(22)) / np.radians(43)
    cover = rng.uniform(0.15, 0.85)
    direction = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    warm = np.array([1.0, 0.95 - 0.12 * low, 0.84 - 0.3 * low])
    blue = np.array([0.26, 0.45, 0.8]) * rng.uniform(0.75, 1.1)
    grey = np.array([0.52, 0.56, 0.62])
    zenith = blue * (1 - 0.55 * cover) + grey * 0.45 * cover
    horizon = np.array([0.72, 0.8, 0.88]) * (1 - 0.3 * low) + 0.25 * low * warm
    sun = warm * rng.uniform(2.3, 3.3) * (1.0 - 0.4 * cover)
    # Skylight on the ground comes from clouds and walls too: about half as blue as the zenith.
    ambient_up = 0.42 * zenith + 0.3 * zenith.mean() + 0.1
    ambient_down = (np.array([0.2, 0.185, 0.165]) + 0.03 * sun) * rng.uniform(0.8, 1.3)
    exposure = rng.uniform(0.85, 1.1) / (0.55 + 0.3 * sun.mean() * direction[2] + 0.35 * ambient_up.mean())
    return Light(
        direction, sun, ambient_up, ambient_down, zenith, horizon, rng.uniform(220, 800), cover, rng.uniform(0, 10, 2),
        exposure,
    )  # fmt: skip


def make_hazy_light(rng: Generator) -> Light:
    """Draw a low evening sun in haze, or an overcast sky that casts hardly a shadow; far things fade in both."""
    overcast = rng.uniform() < 0.5
    elevation, azimuth = np.radians(rng.uniform(14, 24)), rng.uniform(0, 2 * np.pi)
    direction = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    if overcast:
        cover, strength, warm = rng.uniform(1.1, 1.35), rng.uniform(0.25, 0.5), np.array([1.0, 0.98, 0.95])
        zenith = np.array([0.5, 0.53, 0.57]) * rng.uniform(0.85, 1.1)
        horizon = np.array([0.66, 0.68, 0.7]) * rng.uniform(0.9, 1.05)
    else:
        cover, strength, warm = rng.uniform(0.1, 0.5), rng.uniform(2.4, 3.2), np.array([1.0, 0.74, 0.42])
        zenith = np.array([0.36, 0.42, 0.55]) * rng.uniform(0.8, 1.05)
        horizon = np.array([0.95, 0.76, 0.55]) * rng.uniform(0.9, 1.05)
    sun = warm * strength
    ambient_up = 0.6 * zenith + 0.25 * horizon.mean() + 0.05
    ambient_down = np.array([0.24, 0.22, 0.2]) * rng.uniform(0.8, 1.2)
    exposure = rng.uniform(0.75, 0.95) / (0.45 + 0.3 * sun.mean() * direction[2] + 0.5 * ambient_up.mean())
    return Light(
        direction, sun, ambient_up, ambient_down, zenith, horizon, rng.uniform(45, 110), cover, rng.uniform(0, 10, 2),
        exposure,
    )  # fmt: skip


class ShadowMap:
    """Heights of the first surfaces the sun's rays meet; see the module's docstring."""

    def __init__(
        self, triangles: NDArray[np.float64], center_xy: NDArray[np.float64], sun: NDArray[np.float64]
    ):
        n = int(2 * SHADOW_HALF_M / SHADOW_CELL_M)
        self.height = np.full((n, n), _NOTHING, np.float32)
        self.origin = np.asarray(center_xy, np.float64) - SHADOW_HALF_M
        self.shear = sun[:2] / sun[2]
        self._work: NDArray[np.float32] | None = None
        self._dirty: list[tuple[slice, slice]] = []
        _cast(triangles, self.shear, self.origin, self.height)

    def with_movers(self, movers: list[NDArray[np.float64]]) -> NDArray[np.float32]:
        """Heights with further solids added, each [n, 3, 3]; the result is only valid until the next call."""
        if self._work is None:
            self._work = self.height.copy()
        for area in self._dirty:
            self._work[area] = self.height[area]
        self._dirty = []
        for triangles in movers:
            flat = (triangles[..., :2] - triangles[..., 2:] * self.shear - self.origin).reshape(
                -1, 2
            ) / SHADOW_CELL_M
            (x0, y0), (x1, y1) = np.clip(
                [flat.min(axis=0) - 1, flat.max(axis=0) + 2], 0, len(self.height)
            ).astype(int)
            if x1 > x0 and y1 > y0:
                self._dirty.append((slice(y0, y1), slice(x0, x1)))
                _cast(triangles, self.shear, self.origin, self._work)
        return self._work


@njit(cache=True)
def _cast(tris, shear, origin, height):
    """Intersect the grid's sun rays with each triangle, keeping the highest hit of every ray."""
    rows, cols = height.shape
    for i in range(tris.shape[0]):
        ax = (tris[i, 0, 0] - tris[i, 0, 2] * shear[0] - origin[0]) / SHADOW_CELL_M
        ay = (tris[i, 0, 1] - tris[i, 0, 2] * shear[1] - origin[1]) / SHADOW_CELL_M
        bx = (tris[i, 1, 0] - tris[i, 1, 2] * shear[0] - origin[0]) / SHADOW_CELL_M
        by = (tris[i, 1, 1] - tris[i, 1, 2] * shear[1] - origin[1]) / SHADOW_CELL_M
        cx = (tris[i, 2, 0] - tris[i, 2, 2] * shear[0] - origin[0]) / SHADOW_CELL_M
        cy = (tris[i, 2, 1] - tris[i, 2, 2] * shear[1] - origin[1]) / SHADOW_CELL_M
        det = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(det) < 1e-9:
            continue
        x0, x1 = (
            max(0, int(np.ceil(min(ax, bx, cx) - 0.5))),
            min(cols - 1, int(np.floor(max(ax, bx, cx) - 0.5))),
        )
        y0, y1 = (
            max(0, int(np.ceil(min(ay, by, cy) - 0.5))),
            min(rows - 1, int(np.floor(max(ay, by, cy) - 0.5))),
        )
        az, bz, cz = tris[i, 0, 2], tris[i, 1, 2], tris[i, 2, 2]
        inv = 1.0 / det
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                px, py = x + 0.5 - ax, y + 0.5 - ay
                v = (px * (cy - ay) - py * (cx - ax)) * inv
                w = ((bx - ax) * py - (by - ay) * px) * inv
                if v >= 0.0 and w >= 0.0 and v + w <= 1.0:
                    z = az + v * (bz - az) + w * (cz - az)
                    if z > height[y, x]:
                        height[y, x] = z
