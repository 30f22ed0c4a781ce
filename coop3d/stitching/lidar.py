"""Range of virtual pixels from LiDAR sweeps, without the points that the LiDAR sees and the cameras do not.

A LiDAR sits elsewhere than the cameras (and other vehicles' LiDARs far away), so it sees past edges. Each sweep's
grid of beams gives every point its neighbours on the same surface, hence a small tangent patch. The patches of all
sweeps are drawn into one depth buffer of the virtual image, each pixel from its own camera's centre; a point that lies
behind the buffer is hidden. What remains gives range where it was measured and nowhere else, moved along its patch
from the point's direction to the pixel's centre ray.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from coop3d.geometry.cameras import PinholeCamera
from coop3d.stitching.table import RigTable
from coop3d.types import LidarSweep

# Grid of directions that finds neighbours: as fine as OPV2V's 64 beams from -25 to 5 degrees.
BEAMS, LOWEST_DEG, HIGHEST_DEG, COLUMNS = 64, -25.0, 5.0, 1024
GAP = 2  # cells to look for a neighbour
LEVELS, BASELINE_M = 5, 0.5  # slopes are taken over 1 to 2^(LEVELS - 1) cells, about so many metres
WIDEST = 1 << (LEVELS - 1)
HIGHEST_BIT = np.array([max(n.bit_length() - 1, 0) for n in range(1 << LEVELS)])
NOISE_M = 0.1  # five standard deviations of the LiDAR's noise: what two smooth neighbours may differ by
BEND = 0.01  # and this share of the range, for curved surfaces
LARGEST_PATCH_PX = np.float32(12.0)  # half size
STRETCH = 1.34  # a patch is drawn between range / STRETCH and range * STRETCH of its point
LARGEST_MOVE = 0.15  # share of its range that a point may move along the ray to the pixel's centre
HIDDEN_M, HIDDEN_SHARE = 0.15, 0.015  # a point this far behind the buffer (sum of both) is hidden


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
    nearest = np.zeros(table.source.shape, np.float32)  # inverse range of the depth buffer
    range_m = np.full(table.source.shape, np.nan, np.float32)
    moved_m = np.full(table.source.shape, np.inf, np.float32)
    wraps = not isinstance(table.virtual, PinholeCamera)
    surfaces = [_surface(sweep, T_virtual_rig) for sweep in sweeps]
    for k, origin in enumerate(table.origins):  # pixels belong to one camera each: all of one, then the next
        looks = []
        for points, normals, neighbours in surfaces:
            index, seen = _toward(points, origin, table.axes[k], table.least_cosines[k])
            look = (k, index, table.virtual.project(seen)[0], seen, normals, table.rays, table.source)
            _draw(*look, neighbours, wraps, nearest)
            looks.append(look)
        for look in looks:
            _collect(*look, nearest, range_m, moved_m)
    return range_m


def _surface(
    sweep: LidarSweep, T_virtual_rig: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Points [N, 3] and normals [N, 3] in the virtual camera's frame, and `_patches`' neighbours [N, 4]."""
    normals, neighbours = _patches(sweep.points)
    T = (T_virtual_rig @ sweep.T_rig_sensor).astype(np.float32)
    points = _move(sweep.points, T[:3, :3], T[:3, 3])
    return points, _move(normals, T[:3, :3], np.zeros(3, np.float32)), neighbours


def _patches(points: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Tangent planes of one sweep from its grid of beams.

    Args:
        points: [N, 3] sensor frame.

    Returns:
        normals: [N, 3] of any length and sign; zero where no neighbour tells.
        neighbours: [N, 4] indices of the next points to the left, right, below and above on the same surface; -1 for
            none.
    """
    x, y, z = points.T
    range_m = np.sqrt(x * x + y * y + z * z)
    with np.errstate(invalid="ignore", divide="ignore"):
        elevation = np.degrees(np.arcsin(-y / range_m))
    beam = (elevation - LOWEST_DEG) * ((BEAMS - 1) / (HIGHEST_DEG - LOWEST_DEG))
    column = (np.arctan2(x, z) / (2 * np.pi) + 0.5) * COLUMNS
    return _find_patches(points, range_m, beam, column)


@njit(cache=True, error_model="numpy")
def _find_patches(points, range_m, beam, column):
    N = range_m.size
    stride = COLUMNS + 2 * WIDEST
    # Nearest point of each cell; the rows of beams and the circle of columns have `WIDEST` cells more on each side.
    grid = np.full((BEAMS + 2 * WIDEST) * stride, -1, np.int32)
    inverse = np.zeros(grid.size, np.float32)  # its inverse range, 0 = none
    for i in range(N):
        row = int(np.floor(beam[i] + np.float32(0.5))) if range_m[i] > 0 else -1
        if 0 <= row < BEAMS:
            cell = (row + WIDEST) * stride + (int(column[i]) & (COLUMNS - 1)) + WIDEST
            if range_m[i] * inverse[cell] < 1:
                grid[cell], inverse[cell] = i, np.float32(1) / range_m[i]
    for first in range(0, grid.size, stride):  # the circle closes
        for j in range(WIDEST):
            left, right = first + j, first + j + COLUMNS
            grid[left], inverse[left] = grid[right], inverse[right]
            grid[right + WIDEST], inverse[right + WIDEST] = grid[left + WIDEST], inverse[left + WIDEST]
    smooth_across, smooth_along = _smooth(inverse, 1), _smooth(inverse, stride)
    normals = np.zeros((N, 3), np.float32)
    neighbours = np.full((N, 4), -1, np.int32)
    across = np.float32(2 * np.pi / COLUMNS)
    along = np.float32(np.radians(HIGHEST_DEG - LOWEST_DEG) / (BEAMS - 1))
    for row in range(WIDEST, BEAMS + WIDEST):
        for c in range(row * stride + WIDEST, row * stride + WIDEST + COLUMNS):
            i = grid[c]
            if i >= 0:
                near, wide, left, right = _reach(inverse, smooth_across, c, 1, across)
                if left:
                    neighbours[i, 0] = grid[c - near]
                if right:
                    neighbours[i, 1] = grid[c + near]
                far_left, far_right = grid[c - wide * left], grid[c + wide * right]
                near, wide, lower, upper = _reach(inverse, smooth_along, c, stride, along)
                if lower:
                    neighbours[i, 2] = grid[c - near * stride]
                if upper:
                    neighbours[i, 3] = grid[c + near * stride]
                far_lower, far_upper = grid[c - wide * stride * lower], grid[c + wide * stride * upper]
                _normal(points, i, far_left, far_right, far_lower, far_upper, normals)
    return normals, neighbours


@njit(cache=True)
def _smooth(inverse, s):
    """Bit n of each cell: are the points 2^n steps ``s`` before and after on one smooth surface with its own?

    Inverse range at equal steps is linear on planes, up to the second order of the angle between beams. Whole slices
    and no branches, so that it is vectorised.
    """
    bits = np.zeros(inverse.size, np.uint8)
    edge = WIDEST * (COLUMNS + 2 * WIDEST)
    middle, found = inverse[edge:-edge], bits[edge:-edge]
    for n in range(LEVELS):
        before, after = inverse[edge - (s << n) : -edge - (s << n)], inverse[edge + (s << n) :]
        for c in range(middle.size):
            w = middle[c]
            slack = w * (np.float32(2 * NOISE_M) * w + np.float32(2 * BEND))
            bent = abs((before[c] - w) + (after[c] - w))
            goes_on = (before[c] > 0) & (after[c] > 0) & (bent <= slack)
            found[c] |= np.uint8(goes_on) << np.uint8(n)
    return bits


@njit(cache=True, inline="always")
def _reach(inverse, smooth, c, s, angle):
    """How far the surface of cell ``c`` goes on along the line with flat step ``s``, by the bits of `_smooth`.

    Returns:
        near: cells to the next points on the surface.
        wide: cells to points on the surface about `BASELINE_M` away: close to the sensor, points are nearer to each
            other than its noise, and their slope would be noise.
        before, after: on which sides it goes on. A line that ends on one side must go on for two points on the other.
    """
    before = after = False
    level, w = 0, inverse[c]
    while True:
        near = 1 << level
        before = after = (smooth[c] >> level) & 1 == 1
        if before:
            break
        before, after = (smooth[c - near * s] >> level) & 1 == 1, (smooth[c + near * s] >> level) & 1 == 1
        if before and after:  # a crease: keep the nearer side
            before = inverse[c - near * s] > inverse[c + near * s]
            after = not before
        if before or after:
            break
        if near == GAP:
            return near, near, before, after
        level += 1
    # Distance to a neighbour is sqrt(angle^2 + slope^2) / w; this many doublings of `near` stay within the baseline.
    slope = inverse[c - near * s if before else c + near * s] - w  # times w and near
    w2, near2 = w * w, np.float32(near * near)
    room, step = np.float32(BASELINE_M**2) * w2 * w2 * near2, angle * angle * w2 * near2 + slope * slope
    top = 0
    for n in range(LEVELS - 1):
        top += room > np.float32(1 << 2 * n) * step
    if before and after:
        return near, 1 << max(level, HIGHEST_BIT[smooth[c] & ((2 << top) - 1)]), before, after
    while top > level:
        half = (1 << top) // 2 * s
        if (smooth[c - half if before else c + half] >> (top - 1)) & 1:
            break
        top -= 1
    return near, 1 << max(level, top), before, after


@njit(cache=True, inline="always")
def _normal(points, i, left, right, lower, upper, normals):
    """Normal from points around i (or i itself where there is none).

    A direction without neighbours is taken perpendicular to the line of sight.
    """
    has_across, has_along = left != right, lower != upper
    if not has_across and not has_along:
        return
    px, py, pz = points[i, 0], points[i, 1], points[i, 2]
    ax, ay, az = _difference(points, right, left)
    bx, by, bz = _difference(points, upper, lower)
    if not has_across:
        ax, ay, az = _cross(px, py, pz, bx, by, bz)
    if not has_along:
        bx, by, bz = _cross(px, py, pz, ax, ay, az)
    normals[i, 0], normals[i, 1], normals[i, 2] = _cross(ax, ay, az, bx, by, bz)


@njit(cache=True, inline="always")
def _difference(points, a, b):
    return points[a, 0] - points[b, 0], points[a, 1] - points[b, 1], points[a, 2] - points[b, 2]


@njit(cache=True, inline="always")
def _cross(ax, ay, az, bx, by, bz):
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@njit(cache=True)
def _move(points, R, t):
    """R p + t of [N, 3]; a matrix product would start threads for three columns."""
    out = np.empty((len(points), 3), np.float32)
    for i in range(len(points)):
        for a in range(3):
            out[i, a] = R[a, 0] * points[i, 0] + R[a, 1] * points[i, 1] + R[a, 2] * points[i, 2] + t[a]
    return out


@njit(cache=True)
def _toward(points, origin, axis, least_cosine):
    """Points within a cone around ``axis`` from ``origin``: their index [M] and their vector from it [M, 3]."""
    index = np.empty(len(points), np.int32)
    seen = np.empty((len(points), 3), np.float32)
    m = 0
    for i in range(len(points)):
        x, y, z = points[i, 0] - origin[0], points[i, 1] - origin[1], points[i, 2] - origin[2]
        depth = x * axis[0] + y * axis[1] + z * axis[2]
        if depth >= least_cosine * np.sqrt(x * x + y * y + z * z):
            index[m], seen[m, 0], seen[m, 1], seen[m, 2] = i, x, y, z
            m += 1
    return index[:m], seen[:m]


@njit(cache=True, inline="always", error_model="numpy")
def _plane(p, n):
    """The tangent plane through ``p`` as g with inverse range g . ray, its limits, and the range of p itself.

    Inverse range along a ray is a product, without division or cases. Without a normal the patch faces the camera.
    """
    r = np.sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2])
    offset = n[0] * p[0] + n[1] * p[1] + n[2] * p[2]
    one = np.float32(1)
    scale, stretch = (one / offset, np.float32(STRETCH)) if offset != 0 else (np.float32(0), one)
    return n[0] * scale, n[1] * scale, n[2] * scale, one / (r * stretch), stretch / r, r


@njit(cache=True)
def _draw(k, index, uv, seen, normals, rays, source, neighbours, wraps, nearest):
    """Raise ``nearest`` (inverse range) where patches of the points ``index``, seen by camera k, cover its pixels."""
    H, W = source.shape
    half = np.float32(0.5)
    place = np.full(len(normals), -1, np.int32)
    for m in range(index.size):
        place[index[m]] = m
    for m in range(index.size):
        u, v = uv[m, 0], uv[m, 1]
        if not (-1 < u < W + 1 and -LARGEST_PATCH_PX < v < H + LARGEST_PATCH_PX):
            continue
        half_u = half_v = half
        for side in range(0, 4, 2):
            other = neighbours[index[m], side]
            if other < 0:
                other = neighbours[index[m], side + 1]
            if other >= 0 and place[other] >= 0:
                du, dv = abs(uv[place[other], 0] - u), abs(uv[place[other], 1] - v)
                if wraps:
                    du = np.minimum(du, W - du)
                half_u, half_v = max(half_u, du * half), max(half_v, dv * half)
        half_u, half_v = min(half_u, LARGEST_PATCH_PX), min(half_v, LARGEST_PATCH_PX)
        gx, gy, gz, least, most, _ = _plane(seen[m], normals[index[m]])
        top, bottom = max(int(np.ceil(v - half_v - half)), 0), min(int(np.floor(v + half_v - half)), H - 1)
        left, right = int(np.ceil(u - half_u - half)), int(np.floor(u + half_u - half))
        for i in range(top, bottom + 1):
            for column in range(left, right + 1):
                j = column
                if wraps:  # by comparison: a division here would cost as much as all the rest
                    j += W if j < 0 else -W if j >= W else 0
                if 0 <= j < W and source[i, j] == k:
                    w = gx * rays[i, j, 0] + gy * rays[i, j, 1] + gz * rays[i, j, 2]
                    nearest[i, j] = max(nearest[i, j], min(max(w, least), most))


@njit(cache=True)
def _collect(k, index, uv, seen, normals, rays, source, nearest, range_m, moved_m):
    """Write the range of every visible point into the pixel that contains it; the one that was moved least wins."""
    H, W = source.shape
    for m in range(index.size):
        u, v = uv[m, 0], uv[m, 1]
        if not (0 <= u < W and 0 <= v < H):
            continue
        i, j = int(v), int(u)
        if source[i, j] != k:
            continue
        gx, gy, gz, least, most, r = _plane(seen[m], normals[index[m]])
        t = np.float32(1) / min(
            max(gx * rays[i, j, 0] + gy * rays[i, j, 1] + gz * rays[i, j, 2], least), most
        )
        hidden = t > np.float32(1 + HIDDEN_SHARE) / nearest[i, j] + np.float32(HIDDEN_M)
        moved = abs(t - r)
        if not hidden and moved <= np.float32(LARGEST_MOVE) * r and moved < moved_m[i, j]:
            range_m[i, j], moved_m[i, j] = t, moved
