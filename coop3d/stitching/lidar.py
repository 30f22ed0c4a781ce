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
WIDEST, BASELINE_M = 16, 0.5  # cells and metres over which slopes are taken
NOISE_M = 0.1  # five standard deviations of the LiDAR's noise: what two smooth neighbours may differ by
BEND = 0.01  # and this share of the range, for curved surfaces
LARGEST_PATCH_PX = 12.0  # half size
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
    buffer = np.full(table.source.shape, np.inf, np.float32)
    wraps = not isinstance(table.virtual, PinholeCamera)
    looks = []
    for sweep in sweeps:
        normals, neighbours = _patches(sweep.points)
        T = (T_virtual_rig @ sweep.T_rig_sensor).astype(np.float32)
        points, normals = sweep.points @ T[:3, :3].T + T[:3, 3], normals @ T[:3, :3].T
        for k, origin in enumerate(table.origins):
            index, seen = _toward(points, origin, table.axes[k], table.least_cosines[k])
            uv = table.virtual.project(seen)[0]
            look = (k, index, uv, seen, normals, table.rays, table.source)
            _draw(*look, neighbours, wraps, buffer)
            looks.append(look)
    range_m = np.full(table.source.shape, np.nan, np.float32)
    moved_m = np.full(table.source.shape, np.inf, np.float32)
    for look in looks:
        _collect(*look, buffer, range_m, moved_m)
    return range_m


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


@njit(cache=True)
def _find_patches(points, range_m, beam, column):
    N = range_m.size
    cell_of = np.empty(N, np.int32)
    grid = np.full(BEAMS * COLUMNS, -1, np.int32)
    for i in range(N):
        cell_of[i] = -1
        row = int(np.floor(beam[i] + 0.5)) if range_m[i] > 0 else -1
        if 0 <= row < BEAMS:
            cell = row * COLUMNS + int(column[i]) % COLUMNS
            cell_of[i] = cell
            if grid[cell] < 0 or range_m[i] < range_m[grid[cell]]:
                grid[cell] = i
    normals = np.zeros((N, 3), np.float32)
    neighbours = np.full((N, 4), -1, np.int32)
    for i in range(N):
        if cell_of[i] < 0 or grid[cell_of[i]] != i:
            continue
        row, col = cell_of[i] // COLUMNS, cell_of[i] % COLUMNS
        left, right = _on_line(grid, range_m, i, row, col, 0, 1)
        lower, upper = _on_line(grid, range_m, i, row, col, 1, 0)
        neighbours[i, 0], neighbours[i, 1], neighbours[i, 2], neighbours[i, 3] = left, right, lower, upper
        left, right = _widen(grid, points, range_m, i, row, col, 0, 1, left, right)
        lower, upper = _widen(grid, points, range_m, i, row, col, 1, 0, lower, upper)
        _normal(points, i, left, right, lower, upper, normals)
    return normals, neighbours


@njit(cache=True)
def _widen(grid, points, range_m, i, row, col, d_row, d_col, before, after):
    """Neighbours further along the line as long as they lie on the surface and less than `BASELINE_M` away.

    Close to the sensor points are nearer to each other than its noise, and their slope would be noise.
    """
    gap = 2
    while gap <= WIDEST and (before >= 0 or after >= 0):
        if _square(points, i, before) + _square(points, i, after) > BASELINE_M**2:
            break
        a = _at(grid, row - gap * d_row, col - gap * d_col) if before >= 0 else -1
        b = _at(grid, row + gap * d_row, col + gap * d_col) if after >= 0 else -1
        if a >= 0 and b >= 0 and _aligned(range_m, i, a, 1, b, 1):
            before, after = a, b
        elif a >= 0 and after < 0 and _aligned(range_m, before, i, 1, a, 1):
            before = a
        elif b >= 0 and before < 0 and _aligned(range_m, after, i, 1, b, 1):
            after = b
        else:
            break
        gap *= 2
    return before, after


@njit(cache=True)
def _square(points, i, other):
    if other < 0:
        return 0.0
    x, y, z = points[i, 0] - points[other, 0], points[i, 1] - points[other, 1], points[i, 2] - points[other, 2]
    return x * x + y * y + z * z


@njit(cache=True)
def _at(grid, row, col):
    return grid[row * COLUMNS + col % COLUMNS] if 0 <= row < BEAMS else -1


@njit(cache=True)
def _next(grid, row, col, d_row, d_col):
    """(index, gap) of the next point in the grid, at most `GAP` cells away; (-1, 0) for none."""
    for gap in range(1, GAP + 1):
        r = row + gap * d_row
        if 0 <= r < BEAMS:
            found = _at(grid, r, col + gap * d_col)
            if found >= 0:
                return found, gap
    return -1, 0


@njit(cache=True)
def _aligned(range_m, i, a, gap_a, b, gap_b):
    """Do i and the points a and b on both sides of it lie on one smooth line? Inverse range is linear on planes."""
    expected = (gap_b / range_m[a] + gap_a / range_m[b]) / (gap_a + gap_b)
    return abs(expected * range_m[i] - 1.0) <= NOISE_M / range_m[i] + BEND


@njit(cache=True)
def _on_line(grid, range_m, i, row, col, d_row, d_col):
    """Neighbours of i before and after it along one line of the grid, if they lie on its surface."""
    a, gap_a = _next(grid, row, col, -d_row, -d_col)
    b, gap_b = _next(grid, row, col, d_row, d_col)
    if a >= 0 and b >= 0 and _aligned(range_m, i, a, gap_a, b, gap_b):
        return a, b
    # An edge on one side: the other side must continue for two points.
    if a >= 0:
        far, gap = _next(grid, row - gap_a * d_row, (col - gap_a * d_col) % COLUMNS, -d_row, -d_col)
        if far < 0 or not _aligned(range_m, a, i, gap_a, far, gap):
            a = -1
    if b >= 0:
        far, gap = _next(grid, row + gap_b * d_row, (col + gap_b * d_col) % COLUMNS, d_row, d_col)
        if far < 0 or not _aligned(range_m, b, i, gap_b, far, gap):
            b = -1
    if a >= 0 and b >= 0:  # a crease: keep the side that leads nearer
        return (a, -1) if range_m[a] < range_m[b] else (-1, b)
    return a, b


@njit(cache=True)
def _normal(points, i, left, right, lower, upper, normals):
    """Normal from what neighbours there are; a missing direction is taken perpendicular to the line of sight."""
    p = points[i]
    across = points[right if right >= 0 else i] - points[left if left >= 0 else i]
    along = points[upper if upper >= 0 else i] - points[lower if lower >= 0 else i]
    has_across, has_along = left >= 0 or right >= 0, lower >= 0 or upper >= 0
    if not has_across and not has_along:
        return
    if not has_across:
        across = _cross(p, along)
    if not has_along:
        along = _cross(p, across)
    normals[i] = _cross(across, along)


@njit(cache=True)
def _cross(a, b):
    return np.array(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]], np.float32
    )


@njit(cache=True)
def _toward(points, origin, axis, least_cosine):
    """Points within a cone around ``axis`` from ``origin``: their index [M] and their vector from it [M, 3]."""
    index = np.empty(len(points), np.int32)
    seen = np.empty((len(points), 3), np.float32)
    m = 0
    for i in range(len(points)):
        x, y, z = points[i, 0] - origin[0], points[i, 1] - origin[1], points[i, 2] - origin[2]
        depth = x * axis[0] + y * axis[1] + z * axis[2]
        if depth > 0 and depth * depth >= least_cosine * least_cosine * (x * x + y * y + z * z):
            index[m], seen[m, 0], seen[m, 1], seen[m, 2] = i, x, y, z
            m += 1
    return index[:m], seen[:m]


@njit(cache=True)
def _along_ray(ray, p, n, r):
    """Range of the tangent plane through ``p`` (at range ``r``) along ``ray``, at most `STRETCH` from r."""
    toward = n[0] * ray[0] + n[1] * ray[1] + n[2] * ray[2]
    offset = n[0] * p[0] + n[1] * p[1] + n[2] * p[2]
    if offset < 0:
        toward, offset = -toward, -offset
    if offset == 0:  # no normal: a patch that faces the camera
        return r
    if toward * r * np.float32(STRETCH) <= offset:
        return r * np.float32(STRETCH)
    return max(offset / toward, r / np.float32(STRETCH))


@njit(cache=True)
def _draw(k, index, uv, seen, normals, rays, source, neighbours, wraps, buffer):
    """Lower ``buffer`` where the patches of the points ``index``, seen by camera ``k``, cover pixels of that camera."""
    H, W = source.shape
    place = np.full(len(normals), -1, np.int32)
    for m in range(index.size):
        place[index[m]] = m
    for m in range(index.size):
        u, v = uv[m, 0], uv[m, 1]
        if not (-1 < u < W + 1 and -LARGEST_PATCH_PX < v < H + LARGEST_PATCH_PX):
            continue
        half_u = half_v = np.float32(0.5)
        for side in range(4):
            other = neighbours[index[m], side]
            if other >= 0 and place[other] >= 0:
                du, dv = abs(uv[place[other], 0] - u), abs(uv[place[other], 1] - v)
                if wraps:
                    du = min(du, W - du)
                half_u, half_v = max(half_u, du * np.float32(0.5)), max(half_v, dv * np.float32(0.5))
        half_u, half_v = min(half_u, LARGEST_PATCH_PX), min(half_v, LARGEST_PATCH_PX)
        p, n = seen[m], normals[index[m]]
        r = np.sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2])
        for i in range(max(int(np.ceil(v - half_v - 0.5)), 0), min(int(np.floor(v + half_v - 0.5)), H - 1) + 1):
            for column in range(int(np.ceil(u - half_u - 0.5)), int(np.floor(u + half_u - 0.5)) + 1):
                j = column % W if wraps else column
                if 0 <= j < W and source[i, j] == k:
                    t = _along_ray(rays[i, j], p, n, r)
                    if t < buffer[i, j]:
                        buffer[i, j] = t


@njit(cache=True)
def _collect(k, index, uv, seen, normals, rays, source, buffer, range_m, moved_m):
    """Write the range of every visible point into the pixel that contains it; the one that was moved least wins."""
    H, W = source.shape
    for m in range(index.size):
        u, v = uv[m, 0], uv[m, 1]
        if not (0 <= u < W and 0 <= v < H):
            continue
        i, j = int(v), int(u)
        if source[i, j] != k:
            continue
        p, n = seen[m], normals[index[m]]
        r = np.sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2])
        t = _along_ray(rays[i, j], p, n, r)
        hidden = t > buffer[i, j] * np.float32(1 + HIDDEN_SHARE) + np.float32(HIDDEN_M)
        moved = abs(t - r)
        if not hidden and moved <= np.float32(LARGEST_MOVE) * r and moved < moved_m[i, j]:
            range_m[i, j], moved_m[i, j] = t, moved
