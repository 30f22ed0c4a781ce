"""OPV2V's rig and what its sensors measure: exact depth, colour, LiDAR sweeps.

All poses are UE axes (left-handed: x forward, y right, z up). A camera's own frame is a UE actor frame too: x along
the optical axis, y to the right of the picture, z up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.random import Generator
from numpy.typing import NDArray

from coop3d.geometry.carla import carla_pose_to_matrix

from . import shading
from .bvh import PACKET, trace_packet

if TYPE_CHECKING:
    from .scenario import Instant

# [x, y, z, roll, yaw, pitch] in the vehicle frame: front, right, left, back.
CAMERA_POSES = (
    (2.5, 0.0, 1.0, 0.0, 0.0, 0.0),
    (0.0, 0.3, 1.8, 0.0, 100.0, 0.0),
    (0.0, -0.3, 1.8, 0.0, -100.0, 0.0),
    (-2.0, 0.0, 1.5, 0.0, 180.0, 0.0),
)
LIDAR_POSE = (-0.5, 0.0, 1.9, 0.0, 0.0, 0.0)
HORIZONTAL_FOV_DEG = 100.0
LIDAR_BEAMS, LIDAR_LOW_DEG, LIDAR_HIGH_DEG = 64, -25.0, 5.0
LIDAR_RANGE_M, LIDAR_NOISE_M = 120.0, 0.02
_VIGNETTE = 0.22
_DISPLAY = shading.display_table()


def T_vehicle_camera(camera: int) -> NDArray[np.float64]:
    """[4, 4] nominal pose of a camera in the vehicle frame."""
    return carla_pose_to_matrix(CAMERA_POSES[camera])


def T_vehicle_lidar() -> NDArray[np.float64]:
    """[4, 4] nominal pose of the LiDAR in the vehicle frame."""
    return carla_pose_to_matrix(LIDAR_POSE)


def intrinsic(image_size: tuple[int, int]) -> NDArray[np.float64]:
    """[3, 3] pinhole matrix for (width, height); pixel centres lie at half-integers, square pixels."""
    w, h = image_size
    f = w / (2.0 * np.tan(np.radians(HORIZONTAL_FOV_DEG) / 2.0))
    return np.array([[f, 0.0, w / 2.0], [0.0, f, h / 2.0], [0.0, 0.0, 1.0]])


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
    z_m, hit = np.empty((h, w)), np.empty((h, w), np.int32)
    focal = float(intrinsic(image_size)[0, 0])
    _trace_image(
        np.ascontiguousarray(T_world_camera[:3, 3]), np.ascontiguousarray(T_world_camera[:3, :3]), focal,
        *instant.hierarchies(), exclude, z_m, hit,
    )  # fmt: skip
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
    surface, world = instant.surface, instant.scenario
    shading.shade(
        z_m, hit, np.ascontiguousarray(T_world_camera[:3, :3]), np.ascontiguousarray(T_world_camera[:3, 3]),
        float(intrinsic(image_size)[0, 0]), surface.normal, surface.uv_map, surface.kind, surface.layer, surface.tint,
        surface.tag, world.town.atlas.texels, world.town.atlas.offset, world.light_numbers, instant.shadow_height,
        world.shadows.origin, world.shadows.shear, world.shade_origin, float(gain), _VIGNETTE,
        _DISPLAY, bgr,
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
    range_m, hit = np.empty(shots.shape[:2]), np.empty(shots.shape[:2], np.int32)
    origin = np.ascontiguousarray(T_world_lidar[:3, 3])
    _trace_grid(origin, world, *instant.hierarchies(), exclude, range_m, hit)
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
def _trace_image(
    origin,
    R,
    focal,
    bounds,
    first,
    count,
    tris,
    bounds2,
    first2,
    count2,
    tris2,
    owner,
    owner2,
    exclude,
    z_m,
    hit,
):
    H, W = hit.shape
    dx, dy, dz = np.empty(PACKET), np.empty(PACKET), np.empty(PACKET)
    inv_t, number = np.empty(PACKET), np.empty(PACKET, np.int64)
    stack, near = np.empty(128, np.int64), np.empty(128)
    for y in range(0, H, 8):
        for x in range(0, W, 8):
            for k in range(PACKET):
                a = (x + (k & 7) + 0.5 - 0.5 * W) / focal
                b = (0.5 * H - (y + (k >> 3) + 0.5)) / focal
                dx[k] = R[0, 0] + a * R[0, 1] + b * R[0, 2]
                dy[k] = R[1, 0] + a * R[1, 1] + b * R[1, 2]
                dz[k] = R[2, 0] + a * R[2, 1] + b * R[2, 2]
                inv_t[k], number[k] = 0.0, -1
            trace_packet(origin, dx, dy, dz, bounds2, first2, count2, tris2, owner2, exclude, inv_t, number,
                         tris.shape[0], stack, near)  # fmt: skip
            trace_packet(
                origin, dx, dy, dz, bounds, first, count, tris, owner, exclude, inv_t, number, 0, stack, near
            )
            for k in range(PACKET):
                n = number[k]
                hit[y + (k >> 3), x + (k & 7)] = n
                z_m[y + (k >> 3), x + (k & 7)] = 1.0 / inv_t[k] if n >= 0 else np.inf


@njit(cache=True)
def _trace_grid(
    origin,
    directions,
    bounds,
    first,
    count,
    tris,
    bounds2,
    first2,
    count2,
    tris2,
    owner,
    owner2,
    exclude,
    t,
    hit,
):
    """Like :func:`_trace_image` for any [rows, columns, 3] grid of directions whose sides are multiples of 8."""
    H, W = hit.shape
    dx, dy, dz = np.empty(PACKET), np.empty(PACKET), np.empty(PACKET)
    inv_t, number = np.empty(PACKET), np.empty(PACKET, np.int64)
    stack, near = np.empty(128, np.int64), np.empty(128)
    for y in range(0, H, 8):
        for x in range(0, W, 8):
            for k in range(PACKET):
                i, j = y + (k >> 3), x + (k & 7)
                dx[k], dy[k], dz[k] = directions[i, j, 0], directions[i, j, 1], directions[i, j, 2]
                inv_t[k], number[k] = 0.0, -1
            trace_packet(origin, dx, dy, dz, bounds2, first2, count2, tris2, owner2, exclude, inv_t, number,
                         tris.shape[0], stack, near)  # fmt: skip
            trace_packet(
                origin, dx, dy, dz, bounds, first, count, tris, owner, exclude, inv_t, number, 0, stack, near
            )
            for k in range(PACKET):
                n = number[k]
                hit[y + (k >> 3), x + (k & 7)] = n
                t[y + (k >> 3), x + (k & 7)] = 1.0 / inv_t[k] if n >= 0 else np.inf
