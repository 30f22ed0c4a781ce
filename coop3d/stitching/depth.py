"""Range of virtual pixels from dense z-depth of the photographs.

Inverse z-depth of a plane is affine in image coordinates. Around the photograph's pixel nearest to a sample the
surface is followed in inverse depth, along the pixel's row and along its column, always on one surface: through
the neighbours where they continue it, from the other side where an edge follows, to the intersection line where
two faces meet in a crease. That is exact on planes and their creases. Where an occluding edge (or the border of
the sky) lies between two pixels, its place between them is unknown: close to a pixel its surface is trusted, in the
middle the range is unknown. No value ever mixes two surfaces, or a surface with the sky.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from coop3d.stitching.scratch import scratch
from coop3d.stitching.table import PAD, RigTable

# What the photographs say about a pixel.
SKY, SURFACE, EDGE = 0, 1, 2

# Second differences of inverse depth below this share of it are one smooth surface. The interpolation errs by at
# most an eighth of it: 0.025 %.
SMOOTH = 2e-3
# How far from a pixel centre (in pixels) its surface is trusted toward an occluding edge, and toward the sky. An
# edge is somewhere between two pixel centres with equal chance everywhere, so a sample at distance t is wrong
# with chance t, half of that over the accepted ones.
REACH_EDGE, REACH_SKY = 0.3, 0.15

OUTSIDE = -1.0  # inverse depth beyond the image; 0 is sky or unknown


def sample_dense(
    z_m: Sequence[NDArray[np.float32]], table: RigTable
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Range along every virtual pixel's ray from dense z-depth.

    Args:
        z_m: K arrays [h, w] planar z-depth, NaN = sky.
        table: fixed look-up of the rig.

    Returns:
        range_m: [H, W] float32, NaN where unknown (sky, an edge nearby, uncovered).
        seen: [H, W] uint8: SURFACE, EDGE where it may be surface or sky, SKY elsewhere and where uncovered.
    """
    range_m = np.full(table.source.size, np.nan, np.float32)
    seen = np.full(table.source.size, SKY, np.uint8)
    for z, look in zip(
        z_m, table.depth_lookups, strict=True
    ):  # one after the other, so that each stays in the cache
        inverse = padded_inverse(z)
        _sample(inverse.ravel(), inverse.shape[1], *look.arrays, range_m, seen)
    return range_m.reshape(table.source.shape), seen.reshape(table.source.shape)


def padded_inverse(z_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / z of an image [h, w] as [h + 2 PAD, w + 2 PAD]: 0 where there is no surface, `OUTSIDE` around the image.

    The result is a work buffer: the next call overwrites it.
    """
    h, w = z_m.shape
    inverse = scratch("inverse depth", (h + 2 * PAD, w + 2 * PAD), np.float32)
    _invert(np.ascontiguousarray(z_m), inverse)
    return inverse


@njit(cache=True)
def _invert(z, out):
    h, w = z.shape
    one, none = np.float32(1.0), np.float32(0.0)
    for i in range(h):
        out[i + PAD, :PAD] = OUTSIDE
        for j in range(w):
            out[i + PAD, j + PAD] = one / z[i, j] if z[i, j] > none else none  # NaN compares false
        out[i + PAD, w + PAD :] = OUTSIDE
    out[:PAD] = OUTSIDE
    out[h + PAD :] = OUTSIDE


@njit(cache=True)
def _follow(w, p, s, t):
    """Follow the surface of pixel ``p`` for ``t`` (0 to 0.5) pixels toward its neighbour at flat offset ``s``.

    Returns:
        Change of inverse depth, and whether it can be trusted.
    """
    w0, before, after = w[p], w[p - s], w[p + s]
    tolerance = np.float32(SMOOTH) * w0
    back, ahead = w0 - before, after - w0
    if before > 0 and after > 0 and abs(ahead - back) <= tolerance:
        return t * np.float32(0.5) * (back + ahead + t * (ahead - back)), True
    beyond = w[p + 2 * s] - after  # slope of the next surface
    if after > 0 and w[p + 2 * s] > 0 and abs(beyond - ahead) <= tolerance:
        return t * ahead, True  # the edge is behind
    behind = w[p - 2 * s]
    if before > 0 and behind > 0 and abs(back - (before - behind)) <= tolerance:
        change = t * back
        if after > 0 and w[p + 2 * s] > 0:
            here = ahead - beyond  # the next surface, continued to p, minus ours
            there = ahead - back  # the next surface at its pixel, minus ours continued to it
            if here <= 0 <= there:  # a concave crease: the nearer face is seen
                return max(change, here + t * beyond), True
            if (
                there <= 0 <= here
            ):  # a convex crease: a ray enters the body through the farther of both planes
                return min(change, here + t * beyond), True
    else:
        change = np.float32(0.0)  # nothing to take a slope from
    if after < 0:
        return change, True  # the image ends here, the surface does not
    return change, t <= (np.float32(REACH_EDGE) if after > 0 else np.float32(REACH_SKY))


@njit(cache=True, inline="always")
def _look(w, width, p, x, y):
    """Inverse depth ``x`` to the right of and ``y`` below the centre of pixel ``p``; NaN unless seen is SURFACE.

    Returns:
        (inverse depth, seen)
    """
    half, smooth = np.float32(0.5), np.float32(SMOOTH)
    nothing = np.float32(np.nan)
    w0, left, right, up, down = w[p], w[p - 1], w[p + 1], w[p - width], w[p + width]
    bend_x, bend_y = left + right - w0 - w0, up + down - w0 - w0
    surface = w0 > 0 and left > 0 and right > 0 and up > 0 and down > 0
    if (
        surface and abs(bend_x) <= smooth * w0 and abs(bend_y) <= smooth * w0
    ):  # `_follow` says the same, slower
        return w0 + half * (x * (right - left + x * bend_x) + y * (down - up + y * bend_y)), SURFACE
    sx, sy = (1 if x >= 0 else -1), (width if y >= 0 else -width)
    x, y = abs(x), abs(y)
    if w0 == 0:
        reaches_in = (
            (w[p + sx] > 0 and x > REACH_SKY)
            or (w[p + sy] > 0 and y > REACH_SKY)
            or (w[p + sx + sy] > 0 and min(x, y) > REACH_SKY)
        )
        return nothing, EDGE if reaches_in else SKY
    change_x, sure_x = _follow(w, p, sx, x)
    change_y, sure_y = _follow(w, p, sy, y)
    value = w0 + change_x + change_y
    if sure_x and sure_y and value > 0:
        return value, SURFACE
    return nothing, EDGE if w[p + sx] == 0 or w[p + sy] == 0 else SURFACE


@njit(cache=True, error_model="numpy")
def _sample(w, width, pixel, nearest, dx, dy, range_per_z, range_m, seen):
    """Fill ``range_m`` and ``seen`` at ``pixel`` from the inverse depths ``w`` around ``nearest``."""
    for k in range(pixel.size):
        value, what = _look(w, width, nearest[k], dx[k], dy[k])
        range_m[pixel[k]] = range_per_z[k] / value
        seen[pixel[k]] = what


@njit(cache=True)
def sample_inverse(w, width, nearest, dx, dy):
    """Inverse depth [N] at any N places of padded inverse depth images; NaN where unknown. See `DepthLookup`."""
    out = np.empty(nearest.size, np.float32)
    for k in range(nearest.size):
        out[k] = _look(w, width, nearest[k], dx[k], dy[k])[0]
    return out


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
