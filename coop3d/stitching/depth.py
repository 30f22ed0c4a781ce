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
    inverse = np.concatenate([_padded_inverse(z, max(z.shape[1] for z in z_m)) for z in z_m])
    sizes = np.array([z.shape for z in z_m], np.int64)
    range_m = np.full(table.source.shape, np.nan, np.float32)
    seen = np.zeros(table.source.shape, np.uint8)
    _sample(inverse, sizes, table.row_offset, table.source, table.uv, table.range_per_z, range_m, seen)
    return range_m, seen


def _padded_inverse(z: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    inverse = 1.0 / z
    return np.pad(inverse, ((0, 0), (0, width - z.shape[1])), constant_values=np.nan)


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
def _sample(inverse, sizes, row_offset, source, uv, range_per_z, range_m, seen):  # type: ignore[no-untyped-def]
    H, W = source.shape
    for i in range(H):
        for j in range(W):
            k = source[i, j]
            if k == NO_CAMERA:
                continue
            h, w = sizes[k, 0], sizes[k, 1]
            x, y = uv[i, j, 0] - 0.5, uv[i, j, 1] - 0.5  # index coordinates: integer at pixel centres
            x0 = min(max(int(np.floor(x)), 0), w - 2)
            y0 = min(max(int(np.floor(y)), 0), h - 2)
            r = row_offset[k] + y0
            w00, w01 = inverse[r, x0], inverse[r, x0 + 1]
            w10, w11 = inverse[r + 1, x0], inverse[r + 1, x0 + 1]
            unknown = int(np.isnan(w00)) + int(np.isnan(w01)) + int(np.isnan(w10)) + int(np.isnan(w11))
            if unknown > 0:
                seen[i, j] = SKY if unknown == 4 else EDGE
                continue
            seen[i, j] = SURFACE
            smooth = True
            for dy in range(2):
                before = inverse[r + dy, x0 - 1] if x0 > 0 else np.nan
                after = inverse[r + dy, x0 + 2] if x0 + 2 < w else np.nan
                smooth &= _on_one_surface(before, inverse[r + dy, x0], inverse[r + dy, x0 + 1], after)
            for dx in range(2):
                before = inverse[r - 1, x0 + dx] if y0 > 0 else np.nan
                after = inverse[r + 2, x0 + dx] if y0 + 2 < h else np.nan
                smooth &= _on_one_surface(before, inverse[r, x0 + dx], inverse[r + 1, x0 + dx], after)
            if not smooth:
                continue
            a, b = x - x0, y - y0  # may lie up to half a pixel outside [0, 1] at the image border
            inv = (w00 * (1 - a) + w01 * a) * (1 - b) + (w10 * (1 - a) + w11 * a) * b
            if inv > 0:
                range_m[i, j] = range_per_z[i, j] / inv


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
