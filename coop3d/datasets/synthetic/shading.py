"""Colour of a pixel from what its ray hit, compiled with numba.

Textures are filtered by the pixel's footprint, which follows exactly from the ray's differentials on the hit plane;
lane paint is box-filtered analytically along and across the street, so that it thins out instead of flickering.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from . import mesh, textures
from .layout import LANE_M
from .lighting import SHADOW_CELL_M, Light
from .sampling import FAST, dashes, hash01, paint, sample, sample_red, shadow, sky

_ROAD, _ZEBRA, _STOP, _FACADE = mesh.ROAD, mesh.ZEBRA, mesh.STOP_LINE, mesh.FACADE
_PAINTWORK, _GLASS, _LAMP, _GROUND, _LEAVES = mesh.PAINTWORK, mesh.GLASS, mesh.LAMP, mesh.GROUND, mesh.LEAVES
_PLASTER = textures.PLASTER
_TABLE_MAX = (1 << 14) - 1
_TABLE_SCALE = _TABLE_MAX / 4.0


class Surface(NamedTuple):
    """Per-triangle shading data, in the tracer's order."""

    normal: NDArray[np.float32]  # [N, 3] unit, outward
    uv_map: NDArray[np.float64]  # [N, 8]: u = m[0:3] . p + m[3], v = m[4:7] . p + m[7], p from shade origin
    kind: NDArray[np.int32]
    layer: NDArray[np.int32]
    tint: NDArray[np.float32]
    tag: NDArray[np.int32]


def make_surface(m: mesh.Mesh, shade_origin: NDArray[np.float64]) -> Surface:
    """Precompute the affine map from points near ``shade_origin`` [3] to texture coordinates, per triangle."""
    normal, uv_map = _affine_maps(m.triangles, m.uv, shade_origin)
    return Surface(normal, uv_map, m.kind, m.layer, m.tint, m.tag)


@njit(cache=True)
def _affine_maps(tris, uv, origin):
    n = tris.shape[0]
    normal, uv_map = np.empty((n, 3), np.float32), np.empty((n, 8))
    for i in range(n):
        ax, ay, az = tris[i, 0, 0] - origin[0], tris[i, 0, 1] - origin[1], tris[i, 0, 2] - origin[2]
        px, py, pz = (
            tris[i, 1, 0] - tris[i, 0, 0],
            tris[i, 1, 1] - tris[i, 0, 1],
            tris[i, 1, 2] - tris[i, 0, 2],
        )
        qx, qy, qz = (
            tris[i, 2, 0] - tris[i, 0, 0],
            tris[i, 2, 1] - tris[i, 0, 1],
            tris[i, 2, 2] - tris[i, 0, 2],
        )
        nx, ny, nz = py * qz - pz * qy, pz * qx - px * qz, px * qy - py * qx
        area2 = max(nx * nx + ny * ny + nz * nz, 1e-20)
        inv, root = 1.0 / area2, 1.0 / np.sqrt(area2)
        normal[i, 0], normal[i, 1], normal[i, 2] = nx * root, ny * root, nz * root
        # Gradients of the barycentric coordinates of vertices 1 and 2 within the plane.
        gx, gy, gz = (qy * nz - qz * ny) * inv, (qz * nx - qx * nz) * inv, (qx * ny - qy * nx) * inv
        hx, hy, hz = (ny * pz - nz * py) * inv, (nz * px - nx * pz) * inv, (nx * py - ny * px) * inv
        for k in range(2):
            d1, d2 = uv[i, 1, k] - uv[i, 0, k], uv[i, 2, k] - uv[i, 0, k]
            mx, my, mz = d1 * gx + d2 * hx, d1 * gy + d2 * hy, d1 * gz + d2 * hz
            uv_map[i, 4 * k], uv_map[i, 4 * k + 1], uv_map[i, 4 * k + 2] = mx, my, mz
            uv_map[i, 4 * k + 3] = uv[i, 0, k] - (mx * ax + my * ay + mz * az)
    return normal, uv_map


def pack_light(light: Light) -> NDArray[np.float64]:
    """[24] numbers in the order :func:`shade` reads them."""
    return np.concatenate([light.sun_direction, light.sun, light.ambient_up, light.ambient_down, light.zenith,
                           light.horizon, [1.0 / light.haze_m, light.cloud_cover], light.cloud_offset,
                           [light.exposure, 0.0]])  # fmt: skip


# Arrays are arguments of `shade`, not fields of a tuple, and mostly numbers go to the inlined functions: otherwise
# numba counts references anew for every pixel, which costs a third more time.
@njit(cache=True, inline="always")
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True, inline="always")
def _step_on_plane(axis, ray, normal, k):
    """How far a hit moves on its plane when the ray moves by one pixel along a camera's ``axis``."""
    s = _dot(normal, axis) / _dot(normal, ray)
    return k * (axis[0] - s * ray[0]), k * (axis[1] - s * ray[1]), k * (axis[2] - s * ray[2])


@njit(cache=True, inline="always")
def _ground_pixel_m(right, up):
    """Side of a square as large as a pixel's footprint seen from above."""
    return np.sqrt(np.sqrt((right[0] * right[0] + right[1] * right[1]) * (up[0] * up[0] + up[1] * up[1])))


@njit(cache=True, fastmath=FAST)
def shade(
    z_m, hit, R, position, focal, normals, uv_map, kind, layer, tints, tag, texels, offset, light, height,
    shadow_origin, shear, shade_origin, gain, vignette, display, out,
):  # fmt: skip
    """Fill ``out`` [H, W, 3] uint8 BGR from planar depth ``z_m`` [H, W] and triangle numbers ``hit`` [H, W].

    Args:
        z_m, hit: from the tracer; hit is -1 where the sky is.
        R: [3, 3]: columns are the camera's forward, right and up in the world (UE axes).
        position: [3] of the camera, world.
        focal: pixels.
        normals, uv_map, kind, layer, tints, tag: the `Surface` of all triangles.
        texels, offset: of the atlas.
        light: from `pack_light`.
        height, shadow_origin, shear: of the shadow map.
        shade_origin: [3] world, what the surface's texture coordinates count from.
        gain, vignette: exposure of this camera, and how much of it is lost towards the corners.
        display: from `display_table`.
    """
    grid = shadow_origin[0], shadow_origin[1], shear[0], shear[1]
    origin, sun_at = (shade_origin[0], shade_origin[1], shade_origin[2]), (light[0], light[1], light[2])
    H, W = hit.shape
    inv_f = 1.0 / focal
    right, up = (R[0, 1], R[1, 1], R[2, 1]), (R[0, 2], R[1, 2], R[2, 2])
    rel_x, rel_y, rel_z = (
        position[0] - shade_origin[0],
        position[1] - shade_origin[1],
        position[2] - shade_origin[2],
    )
    expose = light[22] * gain
    for i in range(H):
        b_ = -(i + 0.5 - 0.5 * H) * inv_f
        for j in range(W):
            a_ = (j + 0.5 - 0.5 * W) * inv_f
            dx = R[0, 0] + a_ * R[0, 1] + b_ * R[0, 2]
            dy = R[1, 0] + a_ * R[1, 1] + b_ * R[1, 2]
            dz = R[2, 0] + a_ * R[2, 1] + b_ * R[2, 2]
            length = np.sqrt(dx * dx + dy * dy + dz * dz)
            inv_len = 1.0 / length
            unit = dx * inv_len, dy * inv_len, dz * inv_len
            t = hit[i, j]
            if t < 0:
                r, g, b = sky(unit[0], unit[1], unit[2], light, texels, offset, True)
            else:
                z = z_m[i, j]
                point = rel_x + z * dx, rel_y + z * dy, rel_z + z * dz
                normal = float(normals[t, 0]), float(normals[t, 1]), float(normals[t, 2])
                tint, what = (float(tints[t, 0]), float(tints[t, 1]), float(tints[t, 2])), kind[t]
                right_m = _step_on_plane(right, (dx, dy, dz), normal, z * inv_f)
                up_m = _step_on_plane(up, (dx, dy, dz), normal, z * inv_f)
                u_map = uv_map[t, 0], uv_map[t, 1], uv_map[t, 2]
                v_map = uv_map[t, 4], uv_map[t, 5], uv_map[t, 6]
                u, v = _dot(u_map, point) + uv_map[t, 3], _dot(v_map, point) + uv_map[t, 7]
                fu = abs(_dot(u_map, right_m)) + abs(_dot(u_map, up_m))
                fv = abs(_dot(v_map, right_m)) + abs(_dot(v_map, up_m))
                shine, emit = 0.0, 0.0
                if what in (_ROAD, _ZEBRA, _STOP):
                    foot = 0.55 * _ground_pixel_m(right_m, up_m) + 1e-5
                    r, g, b = _road(texels, offset, layer[t], what, tag[t], point, foot, u, v, fu, fv)
                elif what == _FACADE:
                    r, g, b, shine = _facade(texels, offset, layer[t], tag[t], tint, u, v, fu, fv)
                else:
                    r, g, b, shine, emit = _plain(texels, offset, layer[t], what, tint, point, u, v, fu, fv)
                sun = _sunlight(height, grid, what, point, normal, sun_at, origin)
                sky_part = 0.5 + 0.5 * normal[2]
                r *= emit + sun * light[3] + light[6] * sky_part + light[9] * (1.0 - sky_part)
                g *= emit + sun * light[4] + light[7] * sky_part + light[10] * (1.0 - sky_part)
                b *= emit + sun * light[5] + light[8] * sky_part + light[11] * (1.0 - sky_part)
                if shine > 0.0:
                    mirror_r, mirror_g, mirror_b = _reflection(texels, offset, light, unit, normal, shine)
                    r, g, b = r + mirror_r, g + mirror_g, b + mirror_b
                haze = z * length * light[18]
                haze = haze / (1.0 + haze)
                haze = haze * haze
                r += (light[15] * 0.9 - r) * haze
                g += (light[16] * 0.9 - g) * haze
                b += (light[17] * 0.9 - b) * haze
            fall = expose * (1.0 - vignette * (1.0 - inv_len * inv_len))
            out[i, j, 0] = display[min(_TABLE_MAX, max(0, np.int64(b * fall * _TABLE_SCALE)))]
            out[i, j, 1] = display[min(_TABLE_MAX, max(0, np.int64(g * fall * _TABLE_SCALE)))]
            out[i, j, 2] = display[min(_TABLE_MAX, max(0, np.int64(r * fall * _TABLE_SCALE)))]


@njit(cache=True, inline="always")
def _road(texels, offset, layer, what, tag, point, foot, u, v, fu, fv):
    """Asphalt with stains, repaired patches, tyre tracks and worn paint."""
    x, y = point[0], point[1]
    r, g, b, _ = sample(texels, offset, layer, x * 0.55, y * 0.55, foot)
    # Patches and stains: the same plaster noise at two very different scales, fixed to the world.
    w1 = sample_red(texels, offset, _PLASTER, x * 0.021, y * 0.021, foot * 0.04)
    w2 = sample_red(texels, offset, _PLASTER, x * 0.127 + 0.37, y * 0.127, foot * 0.25)
    stain = 1.0 + 2.2 * (w1 - 0.66) + 1.6 * (w2 - 0.66)
    # Repaired patches: at most one axis-aligned rectangle in each 4 m square, drawn by its number.
    cx, cy = np.floor(x * 0.25), np.floor(y * 0.25)
    h = hash01(np.int64(cx), np.int64(cy), 5)
    if h < 0.3:
        h2 = hash01(np.int64(cx), np.int64(cy), 6)
        near_x, near_y = abs(x * 0.25 - cx - 0.5), abs(y * 0.25 - cy - 0.5)
        if near_x < 0.08 + 0.4 * h2 and near_y < 0.08 + 1.3 * h:
            stain *= 0.62 + 2.2 * h
    white, yellow = 0.0, 0.0
    if what == _ROAD:
        white, yellow = paint(tag, u, v, fu, fv)
        if (tag & 3) > 0:  # tyre tracks darken the middle of each lane's two ruts
            rut = abs(abs(u) - LANE_M * (np.floor(abs(u) / LANE_M) + 0.5))
            stain *= 1.0 - 0.1 * max(0.0, 1.0 - abs(rut - 0.8) * 2.2)
    elif what == _ZEBRA:
        white = dashes(u + 0.25, 1.0, 0.5, fu)
    elif u * tag > 0.1 and abs(u) < 2 * LANE_M:
        white = 1.0
    worn = min(max(1.55 - 3.0 * abs(w2 - 0.63) - 5.0 * max(0.0, 0.16 - r), 0.25), 0.95)
    white, yellow = white * worn, yellow * worn
    r, g, b = r * stain, g * stain, b * stain
    r += (0.72 - r) * white + (0.66 - r) * yellow
    g += (0.72 - g) * white + (0.45 - g) * yellow
    b += (0.7 - b) * white + (0.06 - b) * yellow
    return r, g, b


@njit(cache=True, inline="always")
def _facade(texels, offset, layer, tag, tint, u, v, fu, fv):
    """Wall and windows, and how much the windows mirror."""
    r, g, b, glass = sample(texels, offset, layer, u, v, np.sqrt(fu * fv) + 1e-6)
    r, g, b = r * tint[0], g * tint[1], b * tint[2]
    shine = 0.0
    if glass > 0.01:
        i, j = np.int64(np.floor(u)), np.int64(np.floor(v))
        h, h2 = hash01(i, j, tag), hash01(i, j, tag + 17)
        if h < 0.22:  # blinds, drawn to a height of their own
            drawn = 1.0 if (v - np.floor(v)) < 0.2 + 0.6 * h2 else 0.25
            wr, wg, wb = 0.62 * drawn, 0.58 * drawn, 0.5 * drawn
        elif h < 0.4:  # curtains
            wr, wg, wb = 0.2 + 0.4 * h2, 0.19 + 0.33 * h2, 0.18 + 0.26 * h2
        elif h < 0.5:  # lit
            wr, wg, wb = 0.85, 0.66 + 0.1 * h2, 0.38
        else:  # dark room
            dark = 0.03 + 0.12 * h2
            wr, wg, wb = dark, dark * 1.1, dark * 1.25
        r += (wr - r) * glass
        g += (wg - g) * glass
        b += (wb - b) * glass
        shine = 0.35 * glass
    return r, g, b, shine


@njit(cache=True, inline="always")
def _plain(texels, offset, layer, what, tint, point, u, v, fu, fv):
    """Everything else: colour, how much it mirrors, light of its own."""
    foot = np.sqrt(fu * fv) + 1e-6
    r, g, b, _ = sample(texels, offset, layer, u, v, foot)
    shine, emit = 0.0, 0.0
    if what == _GROUND:
        x, y = point[0], point[1]
        w1 = sample_red(texels, offset, _PLASTER, x * 0.031, y * 0.031, foot * 0.1)
        w2 = sample_red(texels, offset, _PLASTER, x * 0.17, y * 0.17, foot * 0.5)
        stain = 1.0 + 2.4 * (w1 - 0.66) + 2.0 * (w2 - 0.66)
        r, g, b = r * stain, g * stain, b * stain
    elif what == _PAINTWORK:
        r, g, b, shine = 1.0, 1.0, 1.0, 0.16
    elif what == _GLASS:
        r, g, b, shine = 1.0, 1.0, 1.0, 0.55
    elif what == _LAMP:
        r, g, b, emit = 1.0, 1.0, 1.0, 0.45
    return r * tint[0], g * tint[1], b * tint[2], shine, emit


@njit(cache=True, inline="always")
def _sunlight(height, grid, what, point, normal, sun_at, shade_origin):
    """Share of the sun's light that a surface point receives."""
    facing = _dot(normal, sun_at)
    if what == _LEAVES:  # light scatters around and through foliage
        facing = 0.35 + 0.65 * facing
    sun = 0.0
    if facing > 0.0:
        x, y, z = point[0] + shade_origin[0], point[1] + shade_origin[1], point[2] + shade_origin[2]
        off, bias = 0.16, 0.12 + 0.2 * (1.0 - abs(normal[2])) + (0.9 if what == _LEAVES else 0.0)
        x, y, z = x + off * normal[0], y + off * normal[1], z + off * normal[2]
        ox, oy, hx, hy = grid
        if what == _FACADE:
            # Seen from the sun a wall is narrow: a wider filter hides the steps of the ray grid.
            c = SHADOW_CELL_M
            lit = 0.25 * (
                shadow(height, ox, oy, hx, hy, x + c, y + c, z, bias)
                + shadow(height, ox, oy, hx, hy, x - c, y + c, z, bias)
                + shadow(height, ox, oy, hx, hy, x + c, y - c, z, bias)
                + shadow(height, ox, oy, hx, hy, x - c, y - c, z, bias)
            )
        else:
            lit = shadow(height, ox, oy, hx, hy, x, y, z, bias)
        sun = facing * lit
    return sun


@njit(cache=True, inline="always")
def _reflection(texels, offset, light, ray, normal, shine):
    """What a smooth surface mirrors of the sky, more so at grazing angles."""
    cosine = _dot(ray, normal)
    fresnel = shine * (0.25 + 0.75 * (1.0 + max(cosine, -1.0)) ** 4)
    twice = 2 * cosine
    x, y, z = ray[0] - twice * normal[0], ray[1] - twice * normal[1], ray[2] - twice * normal[2]
    r, g, b = sky(x, y, z, light, texels, offset, False)
    if z < 0.0:
        r, g, b = 0.3 * r, 0.3 * g, 0.3 * b
    return fresnel * r, fresnel * g, fresnel * b


def display_table() -> NDArray[np.uint8]:
    """Scene radiance 0 .. 4 to display values: a film-like curve (Narkowicz's fit of ACES), then gamma 2.2."""
    x = 0.72 * np.arange(_TABLE_MAX + 1) / _TABLE_SCALE
    film = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    return np.clip(255.0 * np.clip(film, 0, 1) ** (1 / 2.2) + 0.5, 0, 255).astype(np.uint8)
