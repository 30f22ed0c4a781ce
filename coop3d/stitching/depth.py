"""Range of virtual pixels from z-depth of the photographs.

Inverse z-depth of a plane is affine in image coordinates, so interpolating ``1/z`` between pixel centres is exact
on planes. It is done only where the four pixels around the sample lie on one surface; across an
edge, or beside a pixel without depth, the range is unknown rather than an average of two surfaces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from coop3d.stitching.table import NO_CAMERA, RigTable

# What the photographs say about a pixel.
SKY, SURFACE, EDGE = 0, 1, 2


def sample_dense(
    z_m: Sequence[NDArray[np.float32]], table: RigTable
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Range along every virtual pixel's ray from dense z-depth.

    Args:
        z_m: K arrays [h, w] planar z-depth, NaN = sky.
        table: fixed look-up of the rig.

    Returns:
        range_m: [H, W] float32, NaN where unknown (sky, edge, uncovered).
        seen: [H, W] uint8: SKY (all four pixels around the sample are sky), SURFACE (none is) or EDGE (mixed);
            meaningless where uncovered.
    """
    range_m = np.full(table.source.shape, np.nan, np.float32)
    seen = np.zeros(table.source.shape, np.uint8)
    images = tuple(np.ascontiguousarray(z) for z in z_m)
    _sample(images, table.source, table.uv, table.range_per_z, range_m, seen)
    return range_m, seen


@njit(cache=True)
def _on_one_surface(before: float, a: float, b: float, after: float) -> bool:
    """Is the step a -> b part of one surface, given the values beyond it (NaN where there are none)?

    The step continues the slope of a side, or lies between both slopes (a crease). A step seen only from one
    side must match that side. Slopes compare to 2 % of themselves and 0.03 % of the value, which is above float32
    noise and moves a point by far less than half a centimetre per metre.
    """
    step = b - a
    slack = 3e-4 * (abs(a) + abs(b)) * 0.5
    left, right = a - before, after - b
    has_left, has_right = not np.isnan(left), not np.isnan(right)
    if has_left and abs(step - left) <= slack + 0.02 * abs(left):
        return True
    if has_right and abs(step - right) <= slack + 0.02 * abs(right):
        return True
    if has_left and has_right:
        low, high = min(left, right), max(left, right)
        # A crease: bilinear error is at most a quarter of the change of slope.
        return low - slack <= step <= high + slack and (high - low) <= 0.02 * (abs(a) + abs(b)) * 0.5
    return abs(step) <= slack


@njit(cache=True)
def _line_is_smooth(z, row, column, d_row, d_column):
    """`_on_one_surface` for the step from (row, column) along (d_row, d_column), which stays in the image."""
    h, w = z.shape
    before = after = np.nan
    if row - d_row >= 0 and column - d_column >= 0:
        before = 1.0 / z[row - d_row, column - d_column]
    if row + 2 * d_row < h and column + 2 * d_column < w:
        after = 1.0 / z[row + 2 * d_row, column + 2 * d_column]
    return _on_one_surface(before, 1.0 / z[row, column], 1.0 / z[row + d_row, column + d_column], after)


@njit(cache=True)
def _sample(images, source, uv, range_per_z, range_m, seen):
    H, W = source.shape
    for i in range(H):
        for j in range(W):
            if source[i, j] == NO_CAMERA:
                continue
            z = images[source[i, j]]
            x, y = uv[i, j, 0] - 0.5, uv[i, j, 1] - 0.5  # index coordinates: integer at pixel centres
            c = min(max(int(np.floor(x)), 0), z.shape[1] - 2)
            r = min(max(int(np.floor(y)), 0), z.shape[0] - 2)
            z00, z01, z10, z11 = z[r, c], z[r, c + 1], z[r + 1, c], z[r + 1, c + 1]
            unknown = int(np.isnan(z00)) + int(np.isnan(z01)) + int(np.isnan(z10)) + int(np.isnan(z11))
            if unknown > 0:
                seen[i, j] = SKY if unknown == 4 else EDGE
                continue
            seen[i, j] = SURFACE
            if not (
                _line_is_smooth(z, r, c, 0, 1)
                and _line_is_smooth(z, r + 1, c, 0, 1)
                and _line_is_smooth(z, r, c, 1, 0)
                and _line_is_smooth(z, r, c + 1, 1, 0)
            ):
                continue
            a, b = x - c, y - r  # may lie up to half a pixel outside [0, 1] at the image border
            inverse = ((1 - a) / z00 + a / z01) * (1 - b) + ((1 - a) / z10 + a / z11) * b
            if inverse > 0:
                range_m[i, j] = range_per_z[i, j] / inverse


def splat_sparse(z_m: Sequence[NDArray[np.float32]], table: RigTable) -> NDArray[np.float32]:
    """Range from sparse z-depth (LiDAR projected into the photographs): measured pixels only, nearest wins.

    Nothing is interpolated. A measurement goes to the virtual pixel that contains its direction, if that pixel
    belongs to the same camera; its range is kept as measured, so the point lies off the pixel's centre ray by
    at most half a virtual pixel's diagonal (0.25 deg at 1008 columns: 4.4 mm per metre of range).

    Args:
        z_m: K arrays [h, w] planar z-depth, NaN = not measured.
        table: fixed look-up of the rig.

    Returns:
        [H, W] float32, NaN where nothing was measured.
    """
    range_m = np.full(table.source.size, np.inf, np.float32)
    for z, target, camera in zip(z_m, table.pixel_of, table.cameras, strict=True):
        hit = np.isfinite(z) & (target >= 0)
        row, column = np.nonzero(hit)
        uv = np.stack([column, row], axis=-1) + 0.5
        np.minimum.at(range_m, target[hit], (z[hit] * camera.range_per_z(uv)).astype(np.float32))
    range_m[np.isinf(range_m)] = np.nan
    return range_m.reshape(table.source.shape)
