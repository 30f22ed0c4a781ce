"""Colour of a pixel from what its ray hit, compiled with numba.

Textures are filtered by the pixel's footprint, which follows exactly from the ray's differentials on the hit plane;
lane paint is box-filtered analytically along and across the street, so that it thins out instead of flickering.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Surface:
    """Per-triangle shading data, in the tracer's order."""

    normal: NDArray[np.float32]  # [N, 3] unit, outward
    uv_map: NDArray[
        np.float64
    ]  # [N, 8]: u = m[0:3] . p + m[3], v = m[4:7] . p + m[7], p relative to the shade origin
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


@njit(cache=True, fastmath=FAST)
def shade(
    z_m, hit, R, position, focal, normal, uv_map, kind, layer, tint, tag, texels, offset, light, shadow_height,
    shadow_origin, shadow_shear, shade_origin, gain, vignette, display, out,
):  # fmt: skip
    """Fill ``out`` [H, W, 3] uint8 BGR from planar depth ``z_m`` [H, W] and triangle numbers ``hit`` [H, W].

    ``R`` [3, 3]: columns are the camera's forward, right and up in the world (UE axes); ``position`` [3] world.
    """
    H, W = hit.shape
    inv_f = 1.0 / focal
    lx, ly, lz = light[0], light[1], light[2]
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
            ux, uy, uz = dx * inv_len, dy * inv_len, dz * inv_len
            fall = expose * (1.0 - vignette * (1.0 - inv_len * inv_len))
            t = hit[i, j]
            if t < 0:
                r, g, b = sky(ux, uy, uz, light, texels, offset, True)
            else:
                z = z_m[i, j]
                nx, ny, nz = float(normal[t, 0]), float(normal[t, 1]), float(normal[t, 2])
                px, py, pz = rel_x + z * dx, rel_y + z * dy, rel_z + z * dz
                m = uv_map[t]
                u = m[0] * px + m[1] * py + m[2] * pz + m[3]
                v = m[4] * px + m[5] * py + m[6] * pz + m[7]
                # Ray differentials: how far the hit moves on its plane per pixel to the right and down.
                cos_n = nx * dx + ny * dy + nz * dz
                k = z * inv_f
                sr = (nx * R[0, 1] + ny * R[1, 1] + nz * R[2, 1]) / cos_n
                sd = (nx * R[0, 2] + ny * R[1, 2] + nz * R[2, 2]) / cos_n
                rx, ry, rz = k * (R[0, 1] - sr * dx), k * (R[1, 1] - sr * dy), k * (R[2, 1] - sr * dz)
                wx, wy, wz = k * (R[0, 2] - sd * dx), k * (R[1, 2] - sd * dy), k * (R[2, 2] - sd * dz)
                u_r, v_r = m[0] * rx + m[1] * ry + m[2] * rz, m[4] * rx + m[5] * ry + m[6] * rz
                u_d, v_d = m[0] * wx + m[1] * wy + m[2] * wz, m[4] * wx + m[5] * wy + m[6] * wz
                fu, fv = abs(u_r) + abs(u_d), abs(v_r) + abs(v_d)
                what, lay = kind[t], layer[t]
                tr, tg, tb = float(tint[t, 0]), float(tint[t, 1]), float(tint[t, 2])
                shine, emit = 0.0, 0.0
                if what in (_ROAD, _ZEBRA, _STOP):
                    gx, gy = px * 0.55, py * 0.55
                    foot = 0.55 * np.sqrt(np.sqrt((rx * rx + ry * ry) * (wx * wx + wy * wy))) + 1e-5
                    r, g, b, _ = sample(texels, offset, lay, gx, gy, foot)
                    # Patches and stains: the same plaster noise at two very different scales, fixed to the world.
                    w1 = sample_red(texels, offset, _PLASTER, px * 0.021, py * 0.021, foot * 0.04)
                    w2 = sample_red(texels, offset, _PLASTER, px * 0.127 + 0.37, py * 0.127, foot * 0.25)
                    stain = 1.0 + 2.2 * (w1 - 0.66) + 1.6 * (w2 - 0.66)
                    # Repaired patches: at most one axis-aligned rectangle in each 4 m square, drawn by its number.
                    cx, cy = np.floor(px * 0.25), np.floor(py * 0.25)
                    h = hash01(np.int64(cx), np.int64(cy), 5)
                    if h < 0.3:
                        h2 = hash01(np.int64(cx), np.int64(cy), 6)
                        near_x, near_y = abs(px * 0.25 - cx - 0.5), abs(py * 0.25 - cy - 0.5)
                        if near_x < 0.08 + 0.4 * h2 and near_y < 0.08 + 1.3 * h:
                            stain *= 0.62 + 2.2 * h
                    white, yellow = 0.0, 0.0
                    if what == _ROAD:
                        white, yellow = paint(tag[t], u, v, fu, fv)
                        if (tag[t] & 3) > 0:  # tyre tracks darken the middle of each lane's two ruts
                            rut = abs(abs(u) - LANE_M * (np.floor(abs(u) / LANE_M) + 0.5))
                            stain *= 1.0 - 0.1 * max(0.0, 1.0 - abs(rut - 0.8) * 2.2)
                    elif what == _ZEBRA:
                        white = dashes(u + 0.25, 1.0, 0.5, fu)
                    elif u * tag[t] > 0.1 and abs(u) < 2 * LANE_M:
                        white = 1.0
                    worn = min(max(1.55 - 3.0 * abs(w2 - 0.63) - 5.0 * max(0.0, 0.16 - r), 0.25), 0.95)
                    white, yellow = white * worn, yellow * worn
                    r, g, b = r * stain, g * stain, b * stain
                    r += (0.72 - r) * white + (0.66 - r) * yellow
                    g += (0.72 - g) * white + (0.45 - g) * yellow
                    b += (0.7 - b) * white + (0.06 - b) * yellow
                elif what == _FACADE:
                    foot = np.sqrt(fu * fv) + 1e-6
                    r, g, b, glass = sample(texels, offset, lay, u, v, foot)
                    r, g, b = r * tr, g * tg, b * tb
                    if glass > 0.01:
                        ci, cj = np.int64(np.floor(u)), np.int64(np.floor(v))
                        h = hash01(ci, cj, tag[t])
                        h2 = hash01(ci, cj, tag[t] + 17)
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
                else:
                    foot = np.sqrt(fu * fv) + 1e-6
                    r, g, b, _ = sample(texels, offset, lay, u, v, foot)
                    if what == _GROUND:
                        w1 = sample_red(texels, offset, _PLASTER, px * 0.031, py * 0.031, foot * 0.1)
                        w2 = sample_red(texels, offset, _PLASTER, px * 0.17, py * 0.17, foot * 0.5)
                        stain = 1.0 + 2.4 * (w1 - 0.66) + 2.0 * (w2 - 0.66)
                        r, g, b = r * stain, g * stain, b * stain
                    elif what == _PAINTWORK:
                        r, g, b, shine = 1.0, 1.0, 1.0, 0.16
                    elif what == _GLASS:
                        r, g, b, shine = 1.0, 1.0, 1.0, 0.55
                    elif what == _LAMP:
                        r, g, b, emit = 1.0, 1.0, 1.0, 0.45
                    r, g, b = r * tr, g * tg, b * tb
                # Sun, sky and ground light.
                facing = nx * lx + ny * ly + nz * lz
                if what == _LEAVES:  # light scatters around and through foliage
                    facing = 0.35 + 0.65 * facing
                sun = 0.0
                if facing > 0.0:
                    wx_, wy_, wz_ = px + shade_origin[0], py + shade_origin[1], pz + shade_origin[2]
                    off, bias = 0.16, 0.12 + 0.2 * (1.0 - abs(nz)) + (0.9 if what == _LEAVES else 0.0)
                    wx_, wy_, wz_ = wx_ + off * nx, wy_ + off * ny, wz_ + off * nz
                    ox, oy, hx, hy = shadow_origin[0], shadow_origin[1], shadow_shear[0], shadow_shear[1]
                    if what == _FACADE:
                        # Seen from the sun a wall is narrow: a wider filter hides the steps of the ray grid.
                        c = SHADOW_CELL_M
                        lit = 0.25 * (
                            shadow(shadow_height, ox, oy, hx, hy, wx_ + c, wy_ + c, wz_, bias)
                            + shadow(shadow_height, ox, oy, hx, hy, wx_ - c, wy_ + c, wz_, bias)
                            + shadow(shadow_height, ox, oy, hx, hy, wx_ + c, wy_ - c, wz_, bias)
                            + shadow(shadow_height, ox, oy, hx, hy, wx_ - c, wy_ - c, wz_, bias)
                        )
                    else:
                        lit = shadow(shadow_height, ox, oy, hx, hy, wx_, wy_, wz_, bias)
                    sun = facing * lit
                sky_part = 0.5 + 0.5 * nz
                er = emit + sun * light[3] + light[6] * sky_part + light[9] * (1.0 - sky_part)
                eg = emit + sun * light[4] + light[7] * sky_part + light[10] * (1.0 - sky_part)
                eb = emit + sun * light[5] + light[8] * sky_part + light[11] * (1.0 - sky_part)
                r, g, b = r * er, g * eg, b * eb
                if shine > 0.0:
                    cosine = ux * nx + uy * ny + uz * nz
                    fresnel = shine * (0.25 + 0.75 * (1.0 + max(cosine, -1.0)) ** 4)
                    qx, qy, qz = ux - 2 * cosine * nx, uy - 2 * cosine * ny, uz - 2 * cosine * nz
                    sr_, sg_, sb_ = sky(qx, qy, qz, light, texels, offset, False)
                    if qz < 0.0:
                        sr_, sg_, sb_ = 0.3 * sr_, 0.3 * sg_, 0.3 * sb_
                    r, g, b = r + fresnel * sr_, g + fresnel * sg_, b + fresnel * sb_
                haze = z * length * light[18]
                haze = haze / (1.0 + haze)
                haze = haze * haze
                r += (light[15] * 0.9 - r) * haze
                g += (light[16] * 0.9 - g) * haze
                b += (light[17] * 0.9 - b) * haze
            out[i, j, 0] = display[min(_TABLE_MAX, max(0, np.int64(b * fall * _TABLE_SCALE)))]
            out[i, j, 1] = display[min(_TABLE_MAX, max(0, np.int64(g * fall * _TABLE_SCALE)))]
            out[i, j, 2] = display[min(_TABLE_MAX, max(0, np.int64(r * fall * _TABLE_SCALE)))]


def display_table() -> NDArray[np.uint8]:
    """Scene radiance 0 .. 4 to display values: a film-like curve (Narkowicz's fit of ACES), then gamma 2.2."""
    x = 0.72 * np.arange(_TABLE_MAX + 1) / _TABLE_SCALE
    film = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    return np.clip(255.0 * np.clip(film, 0, 1) ** (1 / 2.2) + 0.5, 0, 255).astype(np.uint8)
