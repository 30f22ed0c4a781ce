"""Houses along the streets: facades of window cells, shops, roofs, balconies, signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from . import mesh, textures
from .layout import Layout
from .mesh import MeshBuilder, placed

_WALLS = np.array([
    [0.85, 0.42, 0.33], [0.72, 0.3, 0.24], [0.95, 0.78, 0.58], [1.15, 1.1, 0.98], [0.75, 0.72, 0.7], [0.95, 0.68, 0.45],
    [0.55, 0.62, 0.7], [0.6, 0.7, 0.55], [1.2, 1.18, 1.15], [0.45, 0.2, 0.17], [0.85, 0.8, 0.55], [0.5, 0.45, 0.42],
])  # fmt: skip
_SIGNS = np.array([
    [0.9, 0.1, 0.08], [0.1, 0.2, 0.7], [0.05, 0.4, 0.2], [0.95, 0.7, 0.1], [0.95, 0.93, 0.9], [0.08, 0.08, 0.09],
    [0.85, 0.4, 0.08], [0.15, 0.5, 0.6], [0.4, 0.1, 0.12],
])  # fmt: skip
_ROOFS = np.array(
    [[0.75, 0.3, 0.2], [0.35, 0.33, 0.33], [0.5, 0.28, 0.2], [0.28, 0.3, 0.36], [0.85, 0.45, 0.3]]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Colours:
    """Tints of walls and roofs, [N, 3] each; a house takes one of either and varies it."""

    walls: NDArray[np.float64]
    roofs: NDArray[np.float64]


TOWN_COLOURS = Colours(walls=_WALLS, roofs=_ROOFS)
PALE_COLOURS = Colours(
    walls=np.array([
        [1.2, 1.18, 1.12], [1.1, 1.0, 0.78], [0.62, 0.28, 0.2], [0.32, 0.36, 0.42], [0.95, 0.93, 0.88],
        [0.5, 0.55, 0.42], [0.85, 0.72, 0.5], [0.4, 0.3, 0.24],
    ]),
    roofs=np.array([[0.2, 0.21, 0.24], [0.3, 0.27, 0.25], [0.42, 0.44, 0.47], [0.38, 0.24, 0.18]]),
)  # fmt: skip


@dataclass(frozen=True)
class Character:
    """What one block is like."""

    floors: tuple[int, int]
    setback: tuple[float, float]  # from the sidewalk, m
    gap: tuple[float, float]  # between houses, m
    shops: float  # probability
    pitched: float  # probability of a pitched roof
    filled: float  # share of the lots that carry a house
    lawn: bool = False  # grass between the houses
    gardens: bool = False  # planted in front of the houses
    grove: tuple[int, int] | None = None  # trees beside the usual ones
    width: tuple[float, float] = (8.0, 21.0)  # of a house along the street, m
    depth: tuple[float, float] = (8.0, 14.0)
    facades: tuple[int, int] = (0, textures.N_FACADES)  # of the atlas, first and one past the last


DOWNTOWN = Character((3, 8), (0.0, 1.2), (0.0, 1.5), 0.7, 0.15, 0.95)
TERRACE = Character((2, 4), (0.3, 3.0), (0.0, 4.0), 0.3, 0.5, 0.9)
SUBURB = Character((1, 2), (4.0, 8.0), (3.0, 9.0), 0.0, 0.9, 0.8, lawn=True, gardens=True)
PARK = Character((1, 3), (2.0, 8.0), (5.0, 15.0), 0.1, 0.5, 0.2, lawn=True, gardens=True, grove=(8, 18))
# What stands where a town thins out: detached houses, sheds and halls of sheet metal, fields with trees.
COTTAGES = Character(
    (1, 2), (4.0, 9.0), (5.0, 14.0), 0.0, 0.95, 0.85, lawn=True, gardens=True, width=(8.0, 15.0), facades=(0, 6),
)  # fmt: skip
HALLS = Character(
    (2, 3), (3.0, 8.0), (4.0, 12.0), 0.0, 0.25, 0.85, width=(16.0, 38.0), depth=(12.0, 22.0), facades=(6, 10)
)
ORCHARD = Character(
    (1, 1), (5.0, 9.0), (10.0, 30.0), 0.0, 1.0, 0.3, lawn=True, gardens=True, grove=(14, 30), facades=(0, 6)
)


def build_house(
    b: MeshBuilder,
    rng: Generator,
    layout: Layout,
    center_ab,
    facing_ab,
    size,
    style: Character,
    colours: Colours = TOWN_COLOURS,
) -> None:
    """One house: ``center_ab`` plan centre, ``facing_ab`` unit plan direction of its front, ``size`` (width, depth)."""
    width, depth = size
    xy = layout.to_world(center_ab)
    yaw = layout.heading(center_ab, facing_ab)
    c, s = np.cos(yaw), np.sin(yaw)
    corners = [xy + np.array([c * x - s * y, s * x + c * y]) for x in (-depth / 2, depth / 2)
               for y in (-width / 2, width / 2)]  # fmt: skip
    z = layout.height(np.array(corners))
    floor, buried = float(z.max()) + 0.1, float(z.min()) - 1.0
    T = placed(xy[0], xy[1], floor, yaw)
    tint = colours.walls[rng.integers(len(colours.walls))]
    wall = np.clip(tint * rng.uniform(0.75, 1.12) * rng.uniform(0.95, 1.05, 3), 0.08, 1.3)
    storeys = int(rng.integers(style.floors[0], style.floors[1] + 1))
    storey_m, cell_m = rng.uniform(2.8, 3.5), rng.uniform(2.2, 4.2)
    layer = textures.FACADE_0 + int(rng.integers(*style.facades))
    shop = rng.uniform() < style.shops
    seed = int(rng.integers(1, 1 << 20))
    b.box(placed(xy[0], xy[1], buried, yaw), (depth + 0.12, width + 0.12, floor - buried + 0.35), textures.CONCRETE,
          (0.6, 0.58, 0.55), period=2.8)  # fmt: skip
    z0 = 0.0
    if shop:
        z0 = rng.uniform(3.2, 4.2)
        shop_layer = textures.SHOP_0 + int(rng.integers(textures.N_SHOPS))
        _walls(b, T, depth, width, 0.0, z0, shop_layer, (1.0, 1.0, 1.0), 5.0, z0, seed + 7)
        _shop_trim(b, rng, T, depth, width, z0)
    top = z0 + max(1, storeys - shop) * storey_m
    _walls(b, T, depth, width, z0, top, layer, wall, cell_m, storey_m, seed)
    roof = colours.roofs[rng.integers(len(colours.roofs))] * rng.uniform(0.8, 1.2)
    if rng.uniform() < style.pitched:
        _pitched_roof(b, rng, T, depth, width, top, roof, wall)
    else:
        _flat_roof(b, rng, T, depth, width, top, wall)
    if storeys > 2 and rng.uniform() < 0.35:
        _balconies(b, rng, T, depth, width, z0, top, storey_m)


def _local(T, x, y, z) -> NDArray[np.float64]:
    return T @ placed(x, y, z)


def _walls(b, T, depth, width, z0, z1, layer, tint, cell_m, storey_m, seed) -> None:
    """Four facades between heights z0 and z1, in whole window cells."""
    d, w = depth / 2, width / 2
    floors = max(1, round((z1 - z0) / storey_m))
    sides = [((d, -w), (d, w)), ((d, w), (-d, w)), ((-d, w), (-d, -w)), ((-d, -w), (d, -w))]
    for k, (p, q) in enumerate(sides):
        length = np.hypot(q[0] - p[0], q[1] - p[1])
        cells = max(1, round(length / cell_m))
        local = np.array([[*p, z0], [*q, z0], [*q, z1], [*p, z1]])
        corners = local @ T[:3, :3].T + T[:3, 3]
        uv = [[0, 0], [cells, 0], [cells, -floors], [0, -floors]]
        b.quad(corners, uv, mesh.FACADE, layer, tint, seed + 31 * k)


def _shop_trim(b, rng, T, depth, width, z0) -> None:
    """Sign boards and awnings along the front of a shop floor."""
    n = max(1, int(width // 6))
    step = width / n
    for k in range(n):
        y = -width / 2 + (k + 0.5) * step
        tint = _SIGNS[rng.integers(len(_SIGNS))] * rng.uniform(0.8, 1.2)
        if rng.uniform() < 0.8:
            long = step * rng.uniform(0.55, 0.9)
            layer = textures.SIGN_0 + int(rng.integers(textures.N_SIGNS))
            height = rng.uniform(0.6, 0.95)
            corner = _local(T, depth / 2 + 0.1, y, z0 - height - 0.05)
            b.box(corner, (0.2, long, height), textures.METAL, tint)
            x = depth / 2 + 0.201
            face = np.array(
                [[x, y - long / 2, 0], [x, y + long / 2, 0], [x, y + long / 2, 1], [x, y - long / 2, 1]]
            )
            face[:, 2] = z0 - 0.05 - height + face[:, 2] * height
            u = rng.integers(0, 4) / 4
            # +u runs to the reader's right: facing the front of the house, -y is on the right in these axes.
            uv = [[u + long / height / 3, 1], [u, 1], [u, 0], [u + long / height / 3, 0]]
            b.quad(face @ T[:3, :3].T + T[:3, 3], uv, mesh.PLAIN, layer, tint)
        if rng.uniform() < 0.4:
            y0, y1, x0, x1 = y - step * 0.4, y + step * 0.4, depth / 2, depth / 2 + rng.uniform(0.8, 1.5)
            z1 = z0 - 1.0
            low = np.array([[x0, y0, z1 - 0.5], [x1, y0, z1 - 0.5], [x1, y1, z1 - 0.5], [x0, y1, z1 - 0.5]])
            high = low + np.array([[0, 0, 0.5], [0, 0, 0.06], [0, 0, 0.06], [0, 0, 0.5]])
            b.prism(low @ T[:3, :3].T + T[:3, 3], high @ T[:3, :3].T + T[:3, 3], textures.METAL,
                    np.clip(tint * 1.2 + 0.05, 0, 1.3))  # fmt: skip


def _flat_roof(b, rng, T, depth, width, top, wall) -> None:
    d, w = depth / 2, width / 2
    slab = np.array([[d, -w, top], [d, w, top], [-d, w, top], [-d, -w, top]])
    b.quad(slab @ T[:3, :3].T + T[:3, 3], slab[:, :2] / 2.8, mesh.PLAIN, textures.CONCRETE, (0.6, 0.6, 0.6))
    rise, lip = rng.uniform(0.25, 0.9), rng.uniform(0.1, 0.35)
    trim = np.clip(wall * rng.uniform(0.5, 1.2), 0, 1.3)
    for x, y, sx, sy in ((d, 0, 2 * lip, width + 2 * lip), (-d, 0, 2 * lip, width + 2 * lip),
                         (0, w, depth, 2 * lip), (0, -w, depth, 2 * lip)):  # fmt: skip
        b.box(_local(T, x, y, top - 0.3), (sx, sy, rise + 0.3), textures.PLASTER, trim, period=4.0)
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(-d + 2, d - 2), rng.uniform(-w + 2, w - 2)
        b.box(_local(T, x, y, top - 0.05), rng.uniform(0.8, 3.0, 3), textures.METAL, (0.75, 0.75, 0.75))


def _pitched_roof(b, rng, T, depth, width, top, roof, wall) -> None:
    """Gable or hip roof with eaves; the ridge runs along the longer side."""
    e = rng.uniform(0.25, 0.6)
    d, w = depth / 2 + e, width / 2 + e
    along_y = width >= depth
    rise = (d if along_y else w) * rng.uniform(0.45, 0.85)
    hip = rng.uniform(0.3, 0.9) * (d if along_y else w) if rng.uniform() < 0.5 else 0.0
    ridge = (
        np.array([[0, -(w - hip)], [0, w - hip]]) if along_y else np.array([[-(d - hip), 0], [d - hip, 0]])
    )
    c = np.array([[d, -w, 0], [d, w, 0], [-d, w, 0], [-d, -w, 0]])
    r = np.column_stack([ridge, [rise, rise]])
    if along_y:
        faces = [[c[0], c[1], r[1], r[0]], [c[2], c[3], r[0], r[1]]]
        ends = [[c[3], c[0], r[0]], [c[1], c[2], r[1]]]
    else:
        faces = [[c[1], c[2], r[0], r[1]], [c[3], c[0], r[1], r[0]]]
        ends = [[c[0], c[1], r[1]], [c[2], c[3], r[0]]]

    def world(points):
        return (np.array(points) + np.array([0, 0, top])) @ T[:3, :3].T + T[:3, 3]

    for f in np.array(faces):
        length, slope = np.linalg.norm(f[1] - f[0]) / 2.4, np.linalg.norm(f[2] - f[1]) / 2.4
        b.quad(world(f), [[0, slope], [length, slope], [length, 0], [0, 0]], mesh.PLAIN, textures.ROOF, roof)
    for f in np.array(ends):
        length = np.linalg.norm(f[1] - f[0]) / 2.4
        look = (textures.ROOF, roof) if hip else (textures.PLASTER, wall)
        b.add(world(f), [[0, 1], [length, 1], [length / 2, 0]], mesh.PLAIN, *look)
    slab = c[::-1].copy()
    b.quad(world(slab), slab[:, :2] / 4, mesh.PLAIN, textures.PLASTER, (0.9, 0.88, 0.85))  # soffit
    if rng.uniform() < 0.6:
        x, y = rng.uniform(-d, d) * 0.4, rng.uniform(-w, w) * 0.5
        b.box(_local(T, x, y, top), (0.7, 0.9, rise + rng.uniform(0.3, 1.0)), textures.BRICK, (0.8, 0.45, 0.35),
              period=1.6)  # fmt: skip


def _balconies(b, rng, T, depth, width, z0, top, storey_m) -> None:
    n = max(1, int(width // 5))
    tint = rng.uniform(0.3, 1.1) * np.ones(3)
    for k in range(n):
        if rng.uniform() < 0.3:
            continue
        y = -width / 2 + (k + 0.5) * width / n
        for z in np.arange(z0 + (storey_m if z0 == 0 else 0), top - 1.0, storey_m):
            b.box(_local(T, depth / 2 + 0.5, y, z), (1.0, 2.2, 0.15), textures.PLASTER, tint, period=4.0)
            b.box(_local(T, depth / 2 + 0.97, y, z + 0.15), (0.06, 2.2, 0.85), textures.METAL, tint)
