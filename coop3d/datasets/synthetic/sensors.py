"""What the sensors of a rig measure: exact depth, colour, LiDAR sweeps. Axes are those of :mod:`.rig`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.random import Generator
from numpy.typing import NDArray

from . import shading
from .bvh import PACKET, trace_packet
from .rig import OPV2V_RIG

if TYPE_CHECKING:
    from .scenario import Instant

LIDAR_BEAMS, LIDAR_LOW_DEG, LIDAR_HIGH_DEG = 64, -25.0, 5.0
LIDAR_RANGE_M, LIDAR_NOISE_M = 120.0, 0.02
_VIGNETTE = 0.22
_DISPLAY = shading.display_table()
# Of OPV2V's own rig; that of a scenario is in its domain.
T_vehicle_camera = OPV2V_RIG.T_vehicle_camera
T_vehicle_lidar = OPV2V_RIG.T_vehicle_lidar
intrinsic = OPV2V_RIG.intrinsic


def render_depth(
    instant: Instant, T_world_camera: NDArray[np.float64], image_size: tuple[int, int], exclude: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Trace one ray through every pixel centre.

    Args:
        instant: the world.
        T_world_camera: [4, 4].
        image_size: (width, height), multiples of 8.
        exclude: id of the vehicle that carries the camera, invisible to itself.

    Returns:
        z_m: [H, W] exact planar depth, inf where the ray meets nothing.
        hit: [H, W] number of the triangle, -1 for none.
    """
    w, h = image_size
    focal = float(instant.scenario.domain.rig.intrinsic(image_size)[0, 0])
    rays = _pixel_rays(np.ascontiguousarray(T_world_camera[:3, :3]), focal, h, w)
    z_m, hit = _trace(np.ascontiguousarray(T_world_camera[:3, 3]), rays, instant.hierarchies(), exclude)
    return z_m, hit


def render_camera(
    instant: Instant,
    T_world_camera: NDArray[np.float64],
    image_size: tuple[int, int],
    exclude: int,
    gain: float = 1.0,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Photograph and depth of one camera.

    Returns:
        bgr: [H, W, 3] uint8, channels in OpenCV's order.
        z_m: [H, W] float32 planar depth, 0 where the ray meets nothing (OPV2V's depth files say "none" so).
    """
    z_m, hit = render_depth(instant, T_world_camera, image_size, exclude)
    bgr = np.empty((*hit.shape, 3), np.uint8)
    world = instant.scenario
    atlas, shadows = world.town.atlas, (instant.shadow_height, world.shadows.origin, world.shadows.shear)
    focal = float(world.domain.rig.intrinsic(image_size)[0, 0])
    shading.shade(
        z_m, hit, np.ascontiguousarray(T_world_camera[:3, :3]), np.ascontiguousarray(T_world_camera[:3, 3]),
        focal, *instant.surface, atlas.texels, atlas.offset, world.light_numbers, *shadows, world.shade_origin,
        float(gain), _VIGNETTE, _DISPLAY, bgr,
    )  # fmt: skip
    return bgr, np.where(hit >= 0, z_m, 0.0).astype(np.float32)


def lidar_directions(points_per_beam: int) -> NDArray[np.float64]:
    """[64, points_per_beam, 3] unit shots in the LiDAR frame (UE axes), lowest beam first."""
    elevation = np.radians(np.linspace(LIDAR_LOW_DEG, LIDAR_HIGH_DEG, LIDAR_BEAMS))[:, None]
    azimuth = (np.arange(points_per_beam) + 0.5)[None] * (2 * np.pi / points_per_beam) - np.pi
    flat = np.cos(elevation)
    return np.stack(
        np.broadcast_arrays(flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)), axis=-1
    )


def scan_lidar(
    instant: Instant, T_world_lidar: NDArray[np.float64], points_per_beam: int, exclude: int, rng: Generator
) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.int64]]:
    """One sweep.

    Returns:
        points: [N, 3] metres, LiDAR frame (UE axes), noise along the ray included.
        intensity: [N] uint8.
        owner: [N] id of the vehicle hit, negative for the town.
    """
    shots = lidar_directions(points_per_beam)
    world = np.ascontiguousarray(shots @ T_world_lidar[:3, :3].T)
    range_m, hit = _trace(np.ascontiguousarray(T_world_lidar[:3, 3]), world, instant.hierarchies(), exclude)
    # Noise is drawn for every shot, hit or not, so that a distant change does not reshuffle it.
    noisy = range_m + LIDAR_NOISE_M * rng.standard_normal(range_m.shape)
    keep = (hit >= 0) & (range_m < LIDAR_RANGE_M) & (noisy > 0.1)
    triangle = hit[keep]
    facing = np.abs((instant.surface.normal[triangle] * world[keep]).sum(axis=1))
    bright = instant.surface.tint[triangle].mean(axis=1).clip(0.05, 1.0)
    intensity = 255.0 * bright * (0.3 + 0.7 * facing) * np.exp(-0.004 * range_m[keep])
    points = shots[keep] * noisy[keep][:, None]
    return points, intensity.clip(0, 255).astype(np.uint8), instant.owner[triangle]


@njit(cache=True)
def _pixel_rays(R, focal, height, width):
    """[height, width, 3] world directions through pixel centres, 1 along the camera's forward axis."""
    rays = np.empty((height, width, 3))
    for y in range(height):
        b = (0.5 * height - (y + 0.5)) / focal
        for x in range(width):
            a = (x + 0.5 - 0.5 * width) / focal
            for k in range(3):
                rays[y, x, k] = R[k, 0] + a * R[k, 1] + b * R[k, 2]
    return rays


@njit(cache=True)
def _trace(origin, directions, hierarchies, exclude):
    """Rays from one origin, in packets of 8 x 8: how far in their lengths (inf: nothing), and which triangle (-1).

    ``directions`` is [H, W, 3], both sides multiples of 8.
    """
    H, W = directions.shape[:2]
    t, hit = np.empty((H, W)), np.empty((H, W), np.int32)
    dx, dy, dz = np.empty(PACKET), np.empty(PACKET), np.empty(PACKET)
    inv_t, number = np.empty(PACKET), np.empty(PACKET, np.int64)
    stack, near = np.empty(128, np.int64), np.empty(128)
    for y in range(0, H, 8):
        for x in range(0, W, 8):
            for k in range(PACKET):
                i, j = y + (k >> 3), x + (k & 7)
                dx[k], dy[k], dz[k] = directions[i, j, 0], directions[i, j, 1], directions[i, j, 2]
                inv_t[k], number[k] = 0.0, -1
            for hierarchy in hierarchies:
                trace_packet(origin, dx, dy, dz, hierarchy, exclude, inv_t, number, stack, near)
            for k in range(PACKET):
                i, j = y + (k >> 3), x + (k & 7)
                hit[i, j], t[i, j] = number[k], 1.0 / inv_t[k] if number[k] >= 0 else np.inf
    return t, hit
