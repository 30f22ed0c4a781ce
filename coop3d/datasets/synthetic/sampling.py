"""Compiled pieces of the shader: filtered textures, lane paint, shadow look-up, sky."""

from __future__ import annotations

import numpy as np
from numba import njit

from . import textures
from .layout import LANE_M, PARKING_M
from .lighting import SHADOW_CELL_M

FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}
_SIZE, _LEVELS = textures.SIZE, textures.LEVELS
_CLOUDS = textures.CLOUDS


@njit(cache=True, inline="always")
def hash01(a, b, c):
    h = (a * 374761393 + b * 668265263 + c * 2147483647 + 1013904223) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 668265263) & 0xFFFFFFFF
    return (h ^ (h >> 15)) * (1.0 / 4294967296.0)


@njit(cache=True, inline="always")
def _corners(offset, layer, u, v, footprint):
    """Bilinear weights to the right and down, and the four texels, of the level that suits ``footprint``."""
    f = footprint * _SIZE
    level = 0
    while f > 1.35 and level < _LEVELS - 1:
        f *= 0.5
        level += 1
    side = _SIZE >> level
    x, y = u * side - 0.5, v * side - 0.5
    fx0, fy0 = np.floor(x), np.floor(y)
    fx, fy = x - fx0, y - fy0
    x0, y0 = np.int64(fx0) & (side - 1), np.int64(fy0) & (side - 1)
    x1, y1 = (x0 + 1) & (side - 1), (y0 + 1) & (side - 1)
    base = offset[level] + layer * side * side
    p, q = base + y0 * side, base + y1 * side
    return fx, fy, p + x0, p + x1, q + x0, q + x1


@njit(cache=True, fastmath=FAST)
def sample(texels, offset, layer, u, v, footprint):
    """Bilinear RGBA (0..1) from the mip level whose texels match ``footprint`` (in repeats of the texture)."""
    fx, fy, i00, i01, i10, i11 = _corners(offset, layer, u, v, footprint)
    s = 1.0 / 255.0
    w00, w01, w10, w11 = (1 - fx) * (1 - fy) * s, fx * (1 - fy) * s, (1 - fx) * fy * s, fx * fy * s
    c00, c01, c10, c11 = texels[i00], texels[i01], texels[i10], texels[i11]
    r = (c00 & 255) * w00 + (c01 & 255) * w01 + (c10 & 255) * w10 + (c11 & 255) * w11
    g = (
        ((c00 >> 8) & 255) * w00
        + ((c01 >> 8) & 255) * w01
        + ((c10 >> 8) & 255) * w10
        + ((c11 >> 8) & 255) * w11
    )
    b = (
        ((c00 >> 16) & 255) * w00
        + ((c01 >> 16) & 255) * w01
        + ((c10 >> 16) & 255) * w10
        + ((c11 >> 16) & 255) * w11
    )
    a = (c00 >> 24) * w00 + (c01 >> 24) * w01 + (c10 >> 24) * w10 + (c11 >> 24) * w11
    return r, g, b, a


@njit(cache=True, fastmath=FAST)
def sample_red(texels, offset, layer, u, v, footprint):
    """The red channel of :func:`sample` alone, for noise."""
    fx, fy, i00, i01, i10, i11 = _corners(offset, layer, u, v, footprint)
    top = (texels[i00] & 255) * (1 - fx) + (texels[i01] & 255) * fx
    low = (texels[i10] & 255) * (1 - fx) + (texels[i11] & 255) * fx
    return (top * (1 - fy) + low * fy) * (1.0 / 255.0)


@njit(cache=True, inline="always")
def line(x, half, footprint):
    """Share of a footprint centred at ``x`` that a stripe of half width ``half`` around 0 covers."""
    f = 0.5 * footprint + 1e-4
    lo, hi = max(x - f, -half), min(x + f, half)
    return max(hi - lo, 0.0) / (2.0 * f)


@njit(cache=True, inline="always")
def dashes(v, period, share, footprint):
    """Covered share of a footprint on a dashed line: stripes of ``share * period`` every ``period``."""
    f = footprint + 1e-3
    a, b = (v - 0.5 * f) / period, (v + 0.5 * f) / period
    ia = np.floor(a) * share + min(a - np.floor(a), share)
    ib = np.floor(b) * share + min(b - np.floor(b), share)
    return min(1.0, (ib - ia) * period / f)


@njit(cache=True, fastmath=FAST)
def paint(tag, u, v, fu, fv):
    """(white, yellow) coverage of lane paint at (across, along) with footprints (fu, fv), all metres."""
    lanes, parking, yellow = tag & 3, (tag >> 2) & 1, (tag >> 3) & 1
    if lanes == 0:
        return 0.0, 0.0
    au = abs(u)
    if lanes == 2:
        middle = line(au - 0.14, 0.06, fu)
    else:
        middle = line(u, 0.07, fu) * dashes(v, 9.0, 0.45, fv)
    white = 0.0
    if lanes == 2:
        white = line(au - LANE_M, 0.07, fu) * dashes(v, 7.5, 0.4, fv)
    edge = lanes * LANE_M
    if parking == 1:
        white = max(white, line(au - edge, 0.05, fu) * dashes(v, 1.0, 0.5, fv))
        if au > edge and au < edge + PARKING_M:  # bay marks
            white = max(white, dashes(v, 6.2, 0.016, fv))
    else:
        white = max(white, line(au - edge + 0.12, 0.06, fu))
    if yellow == 1:
        return white, middle
    return max(white, middle), 0.0


@njit(cache=True, fastmath=FAST)
def shadow(height, ox, oy, shx, shy, px, py, pz, bias):
    """Share of sunlight that reaches a point: four neighbouring shadow rays, bilinearly weighted."""
    x = (px - pz * shx - ox) * (1.0 / SHADOW_CELL_M) - 0.5
    y = (py - pz * shy - oy) * (1.0 / SHADOW_CELL_M) - 0.5
    n = height.shape[0]
    if x < 0.0 or y < 0.0 or x > n - 2.0 or y > n - 2.0:
        return 1.0
    x0, y0 = np.int64(x), np.int64(y)
    fx, fy = x - x0, y - y0
    z = pz + bias
    lit = 0.0
    if height[y0, x0] < z:
        lit += (1 - fx) * (1 - fy)
    if height[y0, x0 + 1] < z:
        lit += fx * (1 - fy)
    if height[y0 + 1, x0] < z:
        lit += (1 - fx) * fy
    if height[y0 + 1, x0 + 1] < z:
        lit += fx * fy
    return lit


@njit(cache=True, fastmath=FAST)
def sky(dx, dy, dz, light, texels, offset, clouds):
    """Radiance of the sky in a unit direction; below the horizon, the haze."""
    up = max(dz, 0.0)
    f = (1.0 - up) * (1.0 - up)
    f = f * f
    r = light[12] + (light[15] - light[12]) * f
    g = light[13] + (light[16] - light[13]) * f
    b = light[14] + (light[17] - light[14]) * f
    cosine = dx * light[0] + dy * light[1] + dz * light[2]
    glow = max(cosine, 0.0) ** 24 * 0.25
    if cosine > 0.9994:
        glow += 2.0
    if clouds and dz > 0.015:
        s = 0.28 / (dz + 0.12)
        u, v = dx * s + light[20], dy * s + light[21]
        cr, _, _, density = sample(texels, offset, _CLOUDS, u, v, 0.0035 / (dz + 0.12))
        cover = (density - 0.78 + 0.5 * light[19]) * 4.0
        cover = min(max(cover, 0.0), 1.0)
        cover = cover * cover * (3.0 - 2.0 * cover) * min(1.0, dz * 7.0)
        bright = cr * (1.0 - 0.3 * cover)
        tone = bright * (0.45 + 0.32 * light[3]) + glow * 0.5
        r += (tone - r) * cover * 0.9
        g += (tone - g) * cover * 0.9
        b += (tone * 1.02 - b) * cover * 0.9
    return r + glow * light[3] * 0.5, g + glow * light[4] * 0.5, b + glow * light[5] * 0.4
