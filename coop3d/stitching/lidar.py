"""Range of virtual pixels from LiDAR sweeps, without the points that the LiDAR sees and the cameras do not.

A LiDAR sits elsewhere than the cameras (and other vehicles' LiDARs far away), so it sees past edges. Each sweep's
grid of beams gives every point its neighbours on the same surface, hence a small tangent patch. The patches of all
sweeps are drawn into one depth buffer of the virtual image, each pixel from its own camera's centre; a point that lies
behind the buffer is hidden. What remains gives range where it was measured and nowhere else, moved along its patch
from the point's direction to the pixel's centre ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from coop3d.geometry.cameras import PinholeCamera
from coop3d.stitching.beams import (
    CELLS,
    EDGE,
    STRIDE,
    WIDEST,
    beam_grid,
    close_circle,
    normal,
    room_for,
    sides,
)
from coop3d.stitching.scratch import scratch
from coop3d.stitching.table import RigTable
from coop3d.types import LidarSweep

LARGEST_PATCH_PX = np.float32(12.0)  # half size
STRETCH = np.float32(1.34)  # a patch is drawn between range / STRETCH and range * STRETCH of its point
LARGEST_MOVE = 0.15  # share of its range that a point may move along the ray to the pixel's centre
HIDDEN_M, HIDDEN_SHARE = 0.15, 0.015  # a point this far behind the buffer (sum of both) is hidden


class _Hits(NamedTuple):
    """Points that fall into a pixel of their camera, hidden or not."""

    pixel: NDArray[np.int32]  # flat index
    inverse: NDArray[np.float32]  # of the range of the point's patch along the pixel's centre ray
    range_m: NDArray[np.float32]  # of the point itself, from the camera


def sample_lidar(
    sweeps: Sequence[LidarSweep], table: RigTable, T_virtual_rig: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Range at the pixels that a visible LiDAR point falls into.

    Args:
        sweeps: of one instant.
        table: fixed look-up of the rig.
        T_virtual_rig: [4, 4] rig (LiDAR) frame to the virtual camera's frame.

    Returns:
        [H, W] float32 metres along the pixel's centre ray from its own origin, NaN = not measured.
    """
    H, W = table.source.shape
    nearest = scratch("lidar: nearest", (H * W,), np.float32)  # inverse range of the depth buffer
    nearest.fill(0)
    room = room_for(len(table.origins) * sum(len(sweep.points) for sweep in sweeps))
    hits = _Hits(
        scratch("lidar: pixel", (room,), np.int32),
        scratch("lidar: inverse", (room,), np.float32),
        scratch("lidar: range", (room,), np.float32),
    )
    found = 0
    for sweep in sweeps:
        found = _draw_sweep(sweep, table, T_virtual_rig, nearest, hits, found)
    range_m = np.full((H, W), np.nan, np.float32)
    moved_m = scratch("lidar: moved", (H * W,), np.float32)
    moved_m.fill(np.inf)
    _collect(*hits, found, nearest, range_m.reshape(-1), moved_m)
    return range_m


def _draw_sweep(
    sweep: LidarSweep,
    table: RigTable,
    T_virtual_rig: NDArray[np.float64],
    nearest: NDArray[np.float32],
    hits: _Hits,
    found: int,
) -> int:
    """Draw one sweep's patches as all cameras see them; returns the number of hits so far.

    Points keep the sensor's origin and have the virtual camera's axes: a camera's centre is moved instead of them.
    """
    T = T_virtual_rig @ sweep.T_rig_sensor
    grid = beam_grid(sweep.points, T[:3, :3])
    room = room_for(len(sweep.points))
    index, seen = scratch("lidar: index", (room,), np.int32), scratch("lidar: seen", (3, room), np.float32)
    place = scratch("lidar: place", (CELLS + room,), np.int32)
    mask = scratch("lidar: mask", (CELLS + room,), np.uint8)
    wraps = not isinstance(table.virtual, PinholeCamera)
    image = table.source.reshape(-1), table.rays.reshape(-1), table.source.shape[1], wraps, nearest
    for k, origin in enumerate(table.origins - T[:3, 3].astype(np.float32)):
        centre, axis = tuple(origin), tuple(table.axes[k])
        _in_cone(grid.points[3 * EDGE :], centre, axis, table.least_cosines[k], mask[EDGE : grid.end])
        count = _select(grid.points, grid.end, centre, mask, index, seen, place)
        uv = table.virtual.project(seen[:, :count].T)[0].reshape(-1)
        found = _draw(k, centre, index[:count], uv, place, grid.points, *grid.reach, *image, *hits, found)
    return found


@njit(cache=True, fastmath={"contract"})
def _in_cone(points, origin, axis, least_cosine, mask):
    """Which points [3 N] lie within a cone around ``axis`` from ``origin``. No branches: the loop is vectorised."""
    for c in range(mask.size):
        x, y, z = points[3 * c] - origin[0], points[3 * c + 1] - origin[1], points[3 * c + 2] - origin[2]
        depth = x * axis[0] + y * axis[1] + z * axis[2]
        mask[c] = depth >= least_cosine * np.sqrt(x * x + y * y + z * z)


@njit(cache=True)
def _select(points, count, origin, mask, index, seen, place):
    """Cells in the mask, without the repeated columns: their ``index`` [M], vectors from ``origin`` [3, M], and M.

    ``place`` is the way back: position in the selection of every cell, -1 = not in it.
    """
    for row in range(EDGE, CELLS - EDGE, STRIDE):
        mask[row : row + WIDEST] = 0
        mask[row + STRIDE - WIDEST : row + STRIDE] = 0
    mask[CELLS - EDGE : CELLS] = 0
    mask[count : -(-count // 8) * 8] = 0
    place[:count] = -1
    eight = mask.view(np.uint64)
    m = 0
    for b in range(EDGE // 8, -(-count // 8)):
        if eight[b] != 0:  # most cells belong to other cameras
            for c in range(8 * b, 8 * b + 8):
                if mask[c]:
                    index[m], place[c] = c, m
                    for a in range(3):
                        seen[a, m] = points[3 * c + a] - origin[a]
                    m += 1
    close_circle(place, 1)
    return m


# Arrays are arguments of these loops, not fields of a tuple, and only numbers go to inlined functions: otherwise numba
# counts references anew for every point, which doubles the time.
@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _draw(
    k, origin, index, uv, place, points, across, along, source, rays, W, wraps, nearest,
    pixel, inverse, range_m, found,
):  # fmt: skip
    """Raise ``nearest`` (inverse range) where patches of the cells ``index``, seen by camera k, cover its pixels.

    Appends what falls into a pixel of the camera to the `_Hits` (pixel, inverse, range_m) and returns their number.
    """
    f = np.float32
    H, half = source.size // W, f(0.5)
    width, height = f(W), f(H)
    circle = width if wraps else f(np.inf)
    for m in range(index.size):
        u, v = uv[2 * m], uv[2 * m + 1]
        if not (f(-1) < u < width + f(1) and -LARGEST_PATCH_PX < v < height + LARGEST_PATCH_PX):
            continue
        c = np.intp(index[m])
        px, py, pz = points[3 * c], points[3 * c + 1], points[3 * c + 2]
        half_u = half_v = half
        nx = ny = nz = f(0)
        if c < CELLS:
            before, after, beside = sides(np.intp(across[c]))
            below, above, over = sides(np.intp(along[c]))
            for step in (beside, over * STRIDE):  # half way to the next points that the camera sees, too
                other = place[c + step]
                if step != 0 and other >= 0:
                    du, dv = abs(uv[2 * other] - u), abs(uv[2 * other + 1] - v)
                    half_u, half_v = max(half_u, half * min(du, circle - du)), max(half_v, half * dv)
            half_u, half_v = min(half_u, LARGEST_PATCH_PX), min(half_v, LARGEST_PATCH_PX)
            i, j = 3 * (c + after), 3 * (c - before)
            ax, ay, az = points[i] - points[j], points[i + 1] - points[j + 1], points[i + 2] - points[j + 2]
            i, j = 3 * (c + above * STRIDE), 3 * (c - below * STRIDE)
            bx, by, bz = points[i] - points[j], points[i + 1] - points[j + 1], points[i + 2] - points[j + 2]
            nx, ny, nz = normal(px, py, pz, ax, ay, az, bx, by, bz, beside != 0, over != 0)
        x, y, z = px - origin[0], py - origin[1], pz - origin[2]
        r = np.sqrt(x * x + y * y + z * z)
        gx, gy, gz, least, most = _plane(x, y, z, f(1) / r, nx, ny, nz)
        top, bottom = max(int(np.ceil(v - half_v - half)), 0), min(int(np.floor(v + half_v - half)), H - 1)
        left, right = int(np.ceil(u - half_u - half)), int(np.floor(u + half_u - half))
        for i in range(top, bottom + 1):
            for column in range(left, right + 1):
                j = column
                if wraps:  # by comparison: a division here would cost as much as all the rest
                    j += W if j < 0 else -W if j >= W else 0
                q = i * W + j
                if 0 <= j < W and source[q] == k:
                    w = gx * rays[3 * q] + gy * rays[3 * q + 1] + gz * rays[3 * q + 2]
                    nearest[q] = max(nearest[q], min(max(w, least), most))
        if f(0) <= u < width and f(0) <= v < height:
            q = int(v) * W + int(u)
            if source[q] == k:
                w = gx * rays[3 * q] + gy * rays[3 * q + 1] + gz * rays[3 * q + 2]
                pixel[found], inverse[found], range_m[found] = q, min(max(w, least), most), r
                found += 1
    return found


@njit(cache=True, inline="always", error_model="numpy")
def _plane(x, y, z, inverse, nx, ny, nz):
    """The tangent plane through (x, y, z), 1 / inverse away, as g with inverse range g . ray, and its limits.

    Inverse range along a ray is a product, without division or cases. Without a normal the patch faces the camera.
    """
    one = np.float32(1)
    offset = nx * x + ny * y + nz * z
    if offset == 0:
        return np.float32(0), np.float32(0), np.float32(0), inverse, inverse
    scale = one / offset
    return nx * scale, ny * scale, nz * scale, inverse * (one / STRETCH), inverse * STRETCH


@njit(cache=True, error_model="numpy")
def _collect(pixel, inverse, measured_m, found, nearest, range_m, moved_m):
    """Write the range of every visible point into the pixel that contains it; the one that was moved least wins."""
    for h in range(found):
        q, r = pixel[h], measured_m[h]
        t = np.float32(1) / inverse[h]
        hidden = t > np.float32(1 + HIDDEN_SHARE) / nearest[q] + np.float32(HIDDEN_M)
        moved = abs(t - r)
        if not hidden and moved <= np.float32(LARGEST_MOVE) * r and moved < moved_m[q]:
            range_m[q], moved_m[q] = t, moved
