"""The points of a LiDAR sweep on the sensor's grid of beams: which of them are neighbours on one surface.

Everything is kept by cell of the grid, row by row: a neighbour is then a fixed number of cells away, most of the work
is straight loops over whole rows, and points that are near each other are near in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

from coop3d.stitching.scratch import scratch

# As fine as OPV2V's 64 beams from -25 to 5 degrees.
BEAMS, LOWEST_DEG, HIGHEST_DEG, COLUMNS = 64, -25.0, 5.0, 1024
GAP = 2  # cells to look for a neighbour
LEVELS, BASELINE_M = 5, 0.5  # slopes are taken over 1 to 2^(LEVELS - 1) cells, about so many metres
WIDEST = 1 << (LEVELS - 1)
HIGHEST_BIT = np.array([max(n.bit_length() - 1, 0) for n in range(1 << LEVELS)])
NOISE_M = 0.1  # five standard deviations of the LiDAR's noise: what two smooth neighbours may differ by
BEND = 0.01  # and this share of the range, for curved surfaces

# The rows of beams and the circle of columns have `WIDEST` cells more on each side: nothing leaves the grid.
STRIDE = COLUMNS + 2 * WIDEST
EDGE = WIDEST * STRIDE
CELLS = BEAMS * STRIDE + 2 * EDGE
ACROSS = np.float32(2 * np.pi / COLUMNS)  # angle between columns
ALONG = np.float32(np.radians(HIGHEST_DEG - LOWEST_DEG) / (BEAMS - 1))  # and between beams

REACH, FAR, BEFORE, AFTER = 31, 32, 64, 128  # bits of `BeamGrid.reach`


class BeamGrid(NamedTuple):
    """One sweep by cell; the arrays are work buffers, good until the thread's next sweep."""

    # [3 CELLS + 3 L] x, y, z of the point of each cell (NaN = empty), then of L points without a cell.
    points: NDArray[np.float32]
    end: int  # CELLS + L
    # [2, CELLS] how far the surface of a cell's point goes on along its row and along its column, 0 = not at all:
    # cells to points about `BASELINE_M` away (REACH), sides on which it does (BEFORE, AFTER), and whether the next
    # point on it is two cells away, not one (FAR).
    reach: NDArray[np.uint8]


def beam_grid(points: NDArray[np.float32], R: NDArray[np.floating]) -> BeamGrid:
    """Put a sweep on its grid.

    Of several points in one cell the nearest keeps it. The others, and those outside the grid's rows, have no
    neighbours.

    Args:
        points: [N, 3] metres, sensor frame.
        R: [3, 3] rotation from the sensor's axes to those that the points are wanted in.
    """
    N = len(points)
    room = room_for(N)
    flat = np.ascontiguousarray(points, np.float32).reshape(-1)
    cell = scratch("beams: cell", (room,), np.int32)[:N]
    inverse = scratch("beams: inverse", (room,), np.float32)[:N]
    _find_cells(flat, cell, inverse)
    owner, nearest = scratch("beams: owner", (CELLS,), np.int32), scratch("beams: grid", (CELLS,), np.float32)
    placed = scratch("beams: points", (3 * (CELLS + room),), np.float32)
    count = _place(flat, tuple(R.astype(np.float32).ravel()), cell, inverse, owner, nearest, placed)
    reach = scratch("beams: reach", (2, CELLS), np.uint8)
    smooth = scratch("beams: smooth", (CELLS,), np.uint8)
    for along, (step, angle) in enumerate(((1, ACROSS), (STRIDE, ALONG))):
        _smooth(nearest, step, smooth)
        _reach_wide(nearest, step, angle, smooth, reach[along])
        _reach_rest(nearest, step, angle, smooth, reach[along])
    return BeamGrid(placed, count, reach)


def room_for(n: int) -> int:
    """Size of a work buffer for n things, a power of two from 8: sweeps of about one size share it, so it is kept."""
    return 1 << max(n - 1, 7).bit_length()


def _atan_coefficients() -> tuple[np.float32, ...]:
    """c_n of atan(t) = t (c_0 + c_1 t^2 + ...) for |t| <= 1, to float32's precision."""
    t = np.sqrt((1 - np.cos(np.pi * (np.arange(400) + 0.5) / 400)) / 2)
    fit = Chebyshev.fit(t * t, np.arctan(t) / t, 9, domain=[0, 1]).convert(kind=Polynomial)
    return tuple(np.float32(c) for c in fit.coef)


ATAN = _atan_coefficients()


@njit(cache=True, inline="always")
def _atan(t):
    """A polynomial, because a call would stop the loop around it from being vectorised."""
    s = t * t
    p = ((ATAN[9] * s + ATAN[8]) * s + ATAN[7]) * s + ATAN[6]
    p = ((p * s + ATAN[5]) * s + ATAN[4]) * s + ATAN[3]
    return (((p * s + ATAN[2]) * s + ATAN[1]) * s + ATAN[0]) * t


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _find_cells(points, cell, inverse):
    """Cell (-1 = none) and inverse range of N points [3 N]. Selections, no branches: the loop is vectorised."""
    f = np.float32
    per_rad, per_column = f(1) / ALONG, f(1) / ACROSS
    first = f(0.5 - np.radians(LOWEST_DEG) / ALONG)  # a half, so that truncation rounds
    for i in range(cell.size):
        x, y, z = points[3 * i], points[3 * i + 1], points[3 * i + 2]
        flat2 = x * x + z * z
        slope = -y / np.sqrt(flat2)
        beam = _atan(slope) * per_rad + first
        ax, az = abs(x), abs(z)
        column = _atan((ax if ax < az else az) / (az if ax < az else ax)) * per_column
        column = f(COLUMNS / 4) - column if ax > az else column
        column = f(COLUMNS / 2) - column if z < 0 else column
        column = (-column if x < 0 else column) + f(COLUMNS / 2)
        inside = (abs(slope) < f(1)) & (beam >= 0) & (beam < f(BEAMS)) & (flat2 > 0)
        at = (np.int32(beam) + WIDEST) * STRIDE + (np.int32(column) & (COLUMNS - 1)) + WIDEST
        cell[i] = at if inside else -1
        inverse[i] = f(1) / np.sqrt(flat2 + y * y)


@njit(cache=True, fastmath={"contract"})
def _place(points, R, cell, inverse, owner, nearest, placed):
    """Fill ``nearest`` (inverse range of each cell, 0 = empty) and ``placed`` (`BeamGrid.points`), return the count."""
    nearest[:] = 0
    placed[3 * EDGE : 3 * (CELLS - EDGE)] = np.nan
    for i in range(cell.size):
        c = cell[i]
        if c >= 0 and inverse[i] > nearest[c]:
            nearest[c], owner[c] = inverse[i], i
    count = CELLS
    for i in range(cell.size):
        c = np.intp(cell[i])
        if c < 0 or owner[c] != i:
            c = count
            count += 1
        x, y, z = points[3 * i], points[3 * i + 1], points[3 * i + 2]
        placed[3 * c] = R[0] * x + R[1] * y + R[2] * z
        placed[3 * c + 1] = R[3] * x + R[4] * y + R[5] * z
        placed[3 * c + 2] = R[6] * x + R[7] * y + R[8] * z
    close_circle(nearest, 1)
    close_circle(placed, 3)
    return count


@njit(cache=True)
def close_circle(values, size):
    """Repeat the first columns of a grid of ``size`` values per cell behind the last, and the last before the first."""
    edge = WIDEST * size
    for row in range(EDGE * size, (CELLS - EDGE) * size, STRIDE * size):
        end = row + COLUMNS * size
        values[row : row + edge] = values[end : end + edge]
        values[end + edge : end + 2 * edge] = values[row + edge : row + 2 * edge]


@njit(cache=True)
def _smooth(inverse, s, bits):
    """Bit n of each cell: are the points 2^n steps ``s`` before and after on one smooth surface with its own?

    Inverse range at equal steps is linear on planes, up to the second order of the angle between beams. Whole slices
    and no branches, so that it is vectorised.
    """
    bits[:] = 0
    middle, found = inverse[EDGE:-EDGE], bits[EDGE:-EDGE]
    for n in range(LEVELS):
        before, after = inverse[EDGE - (s << n) : -EDGE - (s << n)], inverse[EDGE + (s << n) :]
        for c in range(middle.size):
            w = middle[c]
            slack = w * (np.float32(2 * NOISE_M) * w + np.float32(2 * BEND))
            bent = abs((before[c] - w) + (after[c] - w))
            goes_on = (before[c] > 0) & (after[c] > 0) & (bent <= slack)
            found[c] |= np.uint8(goes_on) << np.uint8(n)


@njit(cache=True)
def _reach_wide(inverse, s, angle, smooth, reach):
    """`_reach` of the cells whose surface goes on to both next cells, 0 for all others: nine of ten, vectorised."""
    f, u = np.float32, np.uint8
    before, middle = inverse[EDGE - s : -EDGE - s], inverse[EDGE:-EDGE]
    bits, found = smooth[EDGE:-EDGE], reach[EDGE:-EDGE]
    for c in range(middle.size):
        w = middle[c]
        slope, w2 = before[c] - w, w * w
        room, step = f(BASELINE_M**2) * w2 * w2, angle * angle * w2 + slope * slope
        within = u(1) | u(room > step) << u(1) | u(room > f(4) * step) << u(2)
        within = within | u(room > f(16) * step) << u(3) | u(room > f(64) * step) << u(4)
        m = u(within & bits[c])
        both = u(u(0) - u(m & u(1)))  # all bits or none
        m = u(m | m >> u(1))
        m = u(m | m >> u(2))
        m = u(m | m >> u(4))  # all bits below the highest, too
        found[c] = u(u(m - (m >> u(1))) | u(BEFORE | AFTER)) & both


@njit(cache=True)
def _reach_rest(inverse, s, angle, smooth, reach):
    """`_reach` of the cells that have a point and no value yet."""
    for row in range(EDGE + WIDEST, CELLS - EDGE, STRIDE):
        for c in range(row, row + COLUMNS):
            if reach[c] == 0 and inverse[c] > 0:
                near, wide, before, after = _reach(inverse, smooth, c, s, angle)
                if before or after:
                    sides = (BEFORE if before else 0) | (AFTER if after else 0)
                    reach[c] = wide | sides | (FAR if near > 1 else 0)


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
def sides(code):
    """Of one value of `BeamGrid.reach`: steps to the far points before and after, and to the next one (0 = none).

    The next one is the one before where there is one.
    """
    wide, near = code & REACH, 2 if code & FAR else 1
    before, after = wide if code & BEFORE else 0, wide if code & AFTER else 0
    return before, after, -near if before > 0 else near if after > 0 else 0


@njit(cache=True, inline="always")
def normal(px, py, pz, ax, ay, az, bx, by, bz, has_across, has_along):
    """Normal (any length and sign) at p from differences a across and b along; zero where no neighbour tells.

    A direction without neighbours is taken perpendicular to the line of sight.
    """
    if not has_across:
        ax, ay, az = _cross(px, py, pz, bx, by, bz)
    if not has_along:
        bx, by, bz = _cross(px, py, pz, ax, ay, az)
    return _cross(ax, ay, az, bx, by, bz)


@njit(cache=True, inline="always")
def _cross(ax, ay, az, bx, by, bz):
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
