"""Street furniture and vegetation: trees, lamp posts, traffic lights, walls, hedges, bins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from . import mesh, textures
from .mesh import Mesh, MeshBuilder, placed, ring


def _icosphere() -> NDArray[np.float64]:
    """[80, 3, 3] unit icosphere, one subdivision, outward."""
    g = (1 + 5**0.5) / 2
    v = np.array([[-1, g, 0], [1, g, 0], [-1, -g, 0], [1, -g, 0], [0, -1, g], [0, 1, g], [0, -1, -g], [0, 1, -g],
                  [g, 0, -1], [g, 0, 1], [-g, 0, -1], [-g, 0, 1]], dtype=np.float64)  # fmt: skip
    f = [[0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9], [5, 11, 4], [11, 10, 2], [10, 7, 6],
         [7, 1, 8], [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8], [3, 8, 9], [4, 9, 5], [2, 4, 11], [6, 2, 10],
         [8, 6, 7], [9, 8, 1]]  # fmt: skip
    t = (v / np.linalg.norm(v[0]))[f]
    a, b, c = t[:, 0], t[:, 1], t[:, 2]
    ab, bc, ca = a + b, b + c, c + a
    out = np.concatenate([np.stack(x, 1) for x in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    return out / np.linalg.norm(out, axis=2, keepdims=True)


_SPHERE = _icosphere()


def conifer(b: MeshBuilder, rng: Generator, base: NDArray[np.float64], height: float) -> None:
    """Tiers of drooping, ragged boughs around a trunk; ``base`` [3] world."""
    T = placed(base[0], base[1], base[2] - 0.3, rng.uniform(0, 6.28))
    bark = np.array([0.5, 0.36, 0.25])
    b.prism(
        ring(height * 0.022, 6, T, 0.0),
        ring(height * 0.012, 6, T, height * 0.5),
        textures.BARK,
        bark,
        period=0.9,
    )
    tint = np.array([0.16, 0.36, 0.14]) * rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)
    tiers = int(rng.integers(5, 8))
    n = 2 * int(rng.integers(5, 8))
    low, reach = height * rng.uniform(0.08, 0.2), height * rng.uniform(0.17, 0.26)
    f = np.arange(tiers)[:, None] / tiers  # [tiers, 1]
    z0 = low + (height - low) * f
    z1 = np.minimum(height, z0 + (height - low) * 1.75 / tiers)
    r = reach * (1.0 - f) ** 0.85
    ragged = np.where(np.arange(n) % 2 == 0, 1.0, 0.62) * rng.uniform(0.82, 1.15, (tiers, n)) * r
    droop = -0.12 * (ragged - 0.6 * r) + rng.uniform(-0.05, 0.05, (tiers, n)) * r
    turn = np.arange(n) * (2 * np.pi / n) + rng.uniform(0, 1, (tiers, 1))
    skirt = T[:3, 3] + np.stack(
        [ragged * np.cos(turn), ragged * np.sin(turn), z0 + droop], axis=-1
    )  # [tiers, n, 3]
    nxt = np.roll(skirt, -1, axis=1)
    apex, core = np.broadcast_to(T[:3, 3], skirt.shape).copy(), np.broadcast_to(T[:3, 3], skirt.shape).copy()
    apex[..., 2] += z1
    core[..., 2] += z0 + 0.25 * (z1 - z0)
    tone = np.broadcast_to(tint * (0.85 + 0.3 * f)[..., None], skirt.shape).reshape(-1, 3)
    _leaves(b, np.stack([skirt, nxt, apex], axis=2).reshape(-1, 3, 3), tone, rng)
    _leaves(b, np.stack([nxt, skirt, core], axis=2).reshape(-1, 3, 3), tone * 0.5, rng)


def broadleaf(
    b: MeshBuilder, rng: Generator, base: NDArray[np.float64], height: float, green: float = 0.75
) -> None:
    """A trunk under lumpy crowns, green with probability ``green``, else turning; ``base`` [3] world."""
    T = placed(base[0], base[1], base[2] - 0.3, rng.uniform(0, 6.28))
    trunk = height * rng.uniform(0.3, 0.42)
    bark = np.array([0.5, 0.42, 0.33]) * rng.uniform(0.7, 1.3)
    b.prism(ring(height * 0.03, 7, T, 0.0), ring(height * 0.018, 7, T, trunk + 0.25 * height), textures.BARK, bark,
            period=0.9)  # fmt: skip
    season = rng.uniform()
    tint = np.array([0.28, 0.42, 0.12]) if season < green else np.array([0.55, 0.38, 0.1])
    tint = tint * rng.uniform(0.75, 1.2) * rng.uniform(0.9, 1.1, 3)
    span = height - trunk
    crowns, tones = [], []
    for k in range(int(rng.integers(4, 8))):
        r = span * (rng.uniform(0.34, 0.44) if k == 0 else rng.uniform(0.2, 0.34))
        away = 0.0 if k == 0 else span * rng.uniform(0.18, 0.36)
        turn = rng.uniform(0, 6.28)
        rise = 0.5 if k == 0 else rng.uniform(0.2, 0.78)
        middle = T[:3, 3] + [away * np.cos(turn), away * np.sin(turn), 0.3 + trunk + rise * span]
        squash = np.array([1.0, 1.0, rng.uniform(0.75, 1.0)])
        crowns.append(_SPHERE * (_lumps(rng, 3.4, 0.17) * r) * squash + middle)
        tones.append(np.tile(tint * rng.uniform(0.8, 1.2), (len(_SPHERE), 1)))
    _leaves(b, np.concatenate(crowns), np.concatenate(tones), rng)


def _lumps(rng: Generator, frequency: float, amount: float) -> NDArray[np.float64]:
    """[80, 3, 1] radius factors of a lumpy sphere: a function of the vertex alone, or the crown would leak."""
    waves = rng.normal(size=(3, 3)) * frequency
    return 1.0 + amount * np.sin(_SPHERE @ waves.T + rng.uniform(0, 6.28, 3)).sum(axis=2, keepdims=True) / 1.5


def bush(b: MeshBuilder, rng: Generator, base: NDArray[np.float64], size: float) -> None:
    """A lumpy ball of leaves half sunk into the ground at ``base`` [3] world."""
    tri = _SPHERE * _lumps(rng, 3.0, 0.15) * size * np.array([1.0, 1.0, 0.8]) + base
    _leaves(b, tri, np.array([0.2, 0.4, 0.12]) * rng.uniform(0.7, 1.3, 3), rng)


def _leaves(b: MeshBuilder, tri: NDArray[np.float64], tint, rng: Generator) -> None:
    """Foliage triangles, each textured along its two main directions so that nothing stretches."""
    p, q = (tri[:, 1] - tri[:, 0]).T, (tri[:, 2] - tri[:, 0]).T
    drop = np.abs([p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]]).argmax(
        axis=0
    )
    keep = np.array([[1, 2], [0, 2], [0, 1]])[drop]  # [n, 2]
    uv = (
        np.take_along_axis(tri, keep[:, None, :].repeat(3, axis=1), axis=2)
        / textures.PERIOD_M[textures.FOLIAGE]
    )
    bright = rng.uniform(0.8, 1.2, (len(tri), 1))  # uneven tones break up the facets
    b.add(tri, uv, mesh.LEAVES, textures.FOLIAGE, np.clip(tint * bright, 0, 1.2))


_VARIANTS = 12
_MODEL_HEIGHT_M = 9.0


@dataclass(frozen=True)
class Plants:
    """A town's stock of plants, each made once around the origin and then planted many times."""

    conifers: tuple[Mesh, ...]
    broadleaves: tuple[Mesh, ...]
    bushes: tuple[Mesh, ...]

    def tree(
        self, b: MeshBuilder, rng: Generator, base: NDArray[np.float64], height: float, needles: float
    ) -> None:
        """Plant a tree at ``base`` [3] world; ``needles`` is the probability of a conifer."""
        kinds = self.conifers if rng.uniform() < needles else self.broadleaves
        self._plant(b, rng, kinds, base, height / _MODEL_HEIGHT_M)

    def bush(self, b: MeshBuilder, rng: Generator, base: NDArray[np.float64], radius: float) -> None:
        self._plant(b, rng, self.bushes, base, radius)

    @staticmethod
    def _plant(b: MeshBuilder, rng: Generator, kinds: tuple[Mesh, ...], base, scale: float) -> None:
        model = kinds[rng.integers(len(kinds))]
        b.place(
            model, placed(base[0], base[1], base[2], rng.uniform(0, 2 * np.pi)), scale, rng.uniform(0.8, 1.2)
        )


def make_plants(rng: Generator, green: float = 0.75) -> Plants:
    """Draw a town's plants; ``green``: share of the broad-leaved trees whose leaves have not turned."""

    def stock(grow, size: float, n: int = _VARIANTS) -> tuple[Mesh, ...]:
        out = []
        for _ in range(n):
            b = MeshBuilder()
            grow(b, rng, np.zeros(3), size)
            out.append(b.build())
        return tuple(out)

    broad = partial(broadleaf, green=green)
    return Plants(stock(conifer, _MODEL_HEIGHT_M), stock(broad, _MODEL_HEIGHT_M), stock(bush, 1.0, 6))


def lamp_post(b: MeshBuilder, height: float, reach: float, tint) -> None:
    """A street lamp at the origin whose arm points along +x."""
    T = np.eye(4)
    b.prism(ring(0.09, 7, T, -0.5), ring(0.055, 7, T, height), textures.METAL, tint)
    b.prism(ring(0.16, 7, T, -0.5), ring(0.14, 7, T, 0.5), textures.METAL, tint)
    b.box(T @ placed(reach / 2, 0, height - 0.1), (reach, 0.12, 0.1), textures.METAL, tint)
    b.box(
        T @ placed(reach, 0, height - 0.2),
        (0.7, 0.26, 0.14),
        textures.METAL,
        np.clip(np.asarray(tint) * 1.4, 0, 1),
    )


def traffic_light(b: MeshBuilder, reach: float, go: bool) -> None:
    """A mast at the origin facing -x, its arm along y (backwards if ``reach`` is negative), two signal heads."""
    T = np.eye(4)
    dark = (0.12, 0.12, 0.12)
    b.prism(ring(0.1, 7, T, -0.5), ring(0.07, 7, T, 6.0), textures.METAL, (0.35, 0.36, 0.36))
    b.box(T @ placed(0, reach / 2, 5.7), (0.12, abs(reach), 0.12), textures.METAL, (0.35, 0.36, 0.36))
    for y, z in ((reach, 5.0), (0.0, 2.6)):
        x = 0.0 if z > 3 else -0.25
        b.box(T @ placed(x, y, z), (0.3, 0.36, 1.05), textures.METAL, dark)
        for k, colour in enumerate(((0.1, 1.0, 0.25), (1.0, 0.65, 0.05), (1.0, 0.08, 0.05))):
            on = (k == 0) if go else (k == 2)
            tint = np.array(colour) * (1.3 if on else 0.12)
            b.box(
                T @ placed(x - 0.17, y, z + 0.1 + 0.31 * k),
                (0.05, 0.22, 0.22),
                textures.METAL,
                tint,
                kind=mesh.LAMP,
            )


def barrier(
    b: MeshBuilder, points: NDArray[np.float64], height: float, thick: float, layer: int, tint
) -> None:
    """A wall or hedge along world points [n, 3] (on the ground), with small piers where it is masonry."""
    period = textures.PERIOD_M[layer]
    kind = mesh.LEAVES if layer == textures.HEDGE else mesh.PLAIN
    step = np.diff(points, axis=0)
    length = np.hypot(step[:, 0], step[:, 1])
    some = length >= 1e-6
    p, q, step, length = points[:-1][some], points[1:][some], step[some], length[some]
    side = np.stack([-step[:, 1], step[:, 0], np.zeros(len(p))], axis=1) / length[:, None] * (thick / 2)
    ringed = np.stack([p - side, q - side, q + side, p + side], axis=1)  # [n, 4, 3]
    foot, lid = ringed + np.array([0, 0, -0.6]), ringed + np.array([0, 0, height])
    after = [1, 2, 3, 0]
    walls = np.stack([foot, foot[:, after], lid[:, after], lid], axis=2)  # [n, 4 walls, 4 corners, 3]
    faces = np.concatenate([walls, lid[:, None]], axis=1)
    uv = _barrier_uv(length, height, thick, period)
    tints = np.concatenate([np.tile(tint, (8, 1)), np.tile(np.clip(np.asarray(tint) * 1.1, 0, 1.4), (2, 1))])
    for i in range(len(p)):
        b.add(faces[i][:, mesh.QUAD], uv[i][:, mesh.QUAD], kind, layer, tints)
        if kind == mesh.PLAIN:
            T = placed(p[i, 0], p[i, 1], p[i, 2] - 0.6, np.arctan2(step[i, 1], step[i, 0]))
            b.box(T, (thick * 2.2, thick * 2.2, height + 0.85), layer, tint, period=period)


def _barrier_uv(
    length: NDArray[np.float64], height: float, thick: float, period: float
) -> NDArray[np.float64]:
    """[n, 5, 4, 2] of the walls and the lid of a barrier's pieces, in metres along the run."""
    n, low, high = len(length), 0.6 / period, -height / period
    uv = np.zeros((n, 5, 4, 2))
    uv[:, 0:4:2, :, 0] = (np.concatenate([[0.0], np.cumsum(length)[:-1]]) / period)[:, None, None]
    uv[:, 0:4:2, 1:3, 0] += (length / period)[:, None, None]
    uv[:, 1:4:2, 1:3, 0] = thick / period
    uv[:, :4, :, 1] = low, low, high, high
    uv[:, 4, 1:3, 0] = (length / period)[:, None]
    uv[:, 4, 2:, 1] = thick
    return uv
