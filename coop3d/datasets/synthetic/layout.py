"""The plan of a town: a bent street grid on rolling terrain.

Streets are straight in *plan* coordinates (a, b); :meth:`Layout.to_world` bends, turns and shifts the plan into
world x, y (UE axes; the map keeps handedness), and :meth:`Layout.height` gives z. Traffic keeps to the right. An
``a``-street has constant a and runs along b; a ``b``-street the other way round. A street's own coordinates are
(across, along) with ``across > 0`` the side whose traffic moves towards growing ``along``.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from . import mesh, textures
from .mesh import MeshBuilder

LANE_M = 3.5
PARKING_M = 2.4
KERB_M = 0.13
OUTSKIRTS_M = 130.0
STOP_GAP_M, STOP_WIDTH_M = 1.0, 0.5  # from the zebra crossing's edge to the stop line, and its width


@dataclass(frozen=True)
class Street:
    center: float  # plan coordinate of the axis
    lanes: int  # per direction
    parking: bool
    sidewalk: float  # width, m
    yellow: bool  # colour of the centre line

    @property
    def half_road(self) -> float:
        return self.lanes * LANE_M + (PARKING_M if self.parking else 0.4)

    @property
    def half_total(self) -> float:
        return self.half_road + self.sidewalk

    @property
    def tag(self) -> int:
        return self.lanes + 4 * self.parking + 8 * self.yellow


@dataclass(frozen=True, kw_only=True)
class StreetStyle:
    """How streets are drawn.

    Attributes:
        gaps_m: between neighbouring streets, axis to axis.
        wide: share of towns most of whose streets have two lanes per direction.
        open_share: share of the stretches between crossings that exist, the inner streets aside.
        parking: share of streets with parking lanes.
        sidewalk_m: width.
        slope: of the terrain's waves.
        hills_m: rise of the land beyond the town.
    """

    gaps_m: tuple[float, float] = (48.0, 84.0)
    wide: float = 0.4
    open_share: float = 0.72
    parking: float = 0.6
    sidewalk_m: tuple[float, float] = (2.4, 4.2)
    slope: tuple[float, float] = (0.012, 0.035)
    hills_m: tuple[float, float] = (4.0, 26.0)


@dataclass(frozen=True)
class Layout:
    """Plan, warp and terrain of one town. ``axes[0]`` are the a-streets, ``axes[1]`` the b-streets."""

    axes: tuple[tuple[Street, ...], tuple[Street, ...]]
    # is_open[k][i, j]: street i of axis k exists between crossing streets j - 1 and j
    is_open: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    bend: NDArray[np.float64]  # [2, 3] amplitude m, wave number rad/m, phase
    waves: NDArray[np.float64]  # [n, 4] terrain: amplitude m, kx, ky rad/m, phase
    hills: float  # rise of the outskirts, m
    yaw_rad: float
    offset: NDArray[np.float64]  # [3] world position of the plan's origin

    @property
    def edge(self) -> float:
        """Half side of the plan's square, outskirts included."""
        return max(abs(s.center) for axis in self.axes for s in axis) + OUTSKIRTS_M

    def to_world(self, ab: ArrayLike) -> NDArray[np.float64]:
        """[..., 2] plan -> [..., 2] world x, y."""
        ab = np.asarray(ab, np.float64)
        (amp_a, k_a, ph_a), (amp_b, k_b, ph_b) = self.bend
        a = ab[..., 0] + amp_a * np.sin(k_a * ab[..., 1] + ph_a)
        b = ab[..., 1] + amp_b * np.sin(k_b * ab[..., 0] + ph_b)
        c, s = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        return np.stack([c * a - s * b, s * a + c * b], axis=-1) + self.offset[:2]

    def height(self, xy: ArrayLike) -> NDArray[np.float64]:
        """[..., 2] world x, y -> [...] world z of the road surface (kerbs and lawns lie a little higher)."""
        p = np.asarray(xy, np.float64) - self.offset[:2]
        z = self.offset[2] + np.zeros(p.shape[:-1])
        for amp, kx, ky, phase in self.waves:
            z = z + amp * np.sin(kx * p[..., 0] + ky * p[..., 1] + phase)
        beyond = np.maximum(np.abs(p).max(axis=-1) - (self.edge - OUTSKIRTS_M * 0.75), 0.0) / OUTSKIRTS_M
        return z + self.hills * beyond**2 * (1.3 + np.sin(0.02 * p[..., 0] + self.bend[0, 2]))

    def ground(self, ab: ArrayLike, lift: ArrayLike = 0.0) -> NDArray[np.float64]:
        """[..., 2] plan -> [..., 3] world point ``lift`` metres above the road surface."""
        xy = self.to_world(ab)
        return np.concatenate([xy, (self.height(xy) + np.asarray(lift))[..., None]], axis=-1)

    def heading(self, ab: ArrayLike, direction: ArrayLike) -> float:
        """World yaw (radians) of a plan direction at one plan point."""
        ab, d = np.asarray(ab, np.float64), np.asarray(direction, np.float64)
        step = self.to_world(ab + 0.05 * d) - self.to_world(ab - 0.05 * d)
        return float(np.arctan2(step[1], step[0]))

    def street_point(
        self, axis: int, street: int, across: ArrayLike, along: ArrayLike
    ) -> NDArray[np.float64]:
        """Plan coordinates of a street's (across, along)."""
        across, along = np.broadcast_arrays(np.asarray(across, np.float64), np.asarray(along, np.float64))
        center = self.axes[axis][street].center
        # a-streets: travelling towards +b, the right-hand side is -a.
        pair = (center - across, along) if axis == 0 else (along, center + across)
        return np.stack(pair, axis=-1)

    def segment_is_open(self, axis: int, street: int, along: float) -> bool:
        crossing = sum(s.center < along for s in self.axes[1 - axis])
        return bool(self.is_open[axis][street, crossing])


def make_layout(rng: Generator, style: StreetStyle | None = None) -> Layout:
    """Draw a town plan."""
    style = style or StreetStyle()
    wide = rng.uniform() < style.wide
    axes = []
    for _ in range(2):
        gaps = rng.uniform(*style.gaps_m, 3)
        centers = np.concatenate([[0.0], np.cumsum(gaps)])
        centers -= centers[1] + gaps[1] * rng.uniform(0.35, 0.65)
        lanes = rng.choice([1, 2], 4, p=[0.3, 0.7] if wide else [0.75, 0.25])
        axes.append(tuple(
            Street(float(c), int(n), bool(rng.uniform() < style.parking), float(rng.uniform(*style.sidewalk_m)),
                   bool(rng.uniform() < 0.5))
            for c, n in zip(centers, lanes, strict=True)
        ))  # fmt: skip
    is_open = []
    for _ in range(2):
        exists = rng.uniform(size=(4, 5)) < style.open_share
        exists[1:3] = True  # the two inner streets of each axis run through
        is_open.append(exists)
    bend = np.stack(
        [rng.uniform(2.0, 8.0, 2), 2 * np.pi / rng.uniform(180, 330, 2), rng.uniform(0, 6.28, 2)], axis=1
    )
    n = 5
    length, angle = rng.uniform(70, 260, n), rng.uniform(0, 2 * np.pi, n)
    slope = rng.uniform(*style.slope) * rng.uniform(0.5, 1.0, n)
    k = 2 * np.pi / length
    waves = np.stack([slope / k, k * np.cos(angle), k * np.sin(angle), rng.uniform(0, 6.28, n)], axis=1)
    offset = np.array([*rng.uniform(-400, 400, 2), rng.uniform(-4, 12)])
    return Layout(
        (axes[0], axes[1]), (is_open[0], is_open[1]), bend, waves, float(rng.uniform(*style.hills_m)),
        float(rng.uniform(0, 2 * np.pi)), offset,
    )  # fmt: skip


_ROAD, _SIDE, _BLOCK = 0, 1, 2


@dataclass(frozen=True)
class _Bands:
    """The plan cut into bands along one axis: band i lies between lines[i] and lines[i + 1]."""

    lines: NDArray[np.float64]
    role: NDArray[np.int64]  # _ROAD, _SIDE or _BLOCK
    street: NDArray[np.int64]  # nearest street of this axis (the one it belongs to unless _BLOCK)
    upper: NDArray[np.bool_]  # the band lies above its street's axis
    gap: NDArray[np.int64]  # number of streets wholly below (index of the block, for _BLOCK)
    stop: NDArray[np.bool_]  # the narrow band of the stop line


def _bands(streets: tuple[Street, ...], edge: float) -> _Bands:
    wanted = [-edge, edge]
    for s in streets:
        for d in (
            s.half_road,
            s.half_total,
            s.half_total + STOP_GAP_M,
            s.half_total + STOP_GAP_M + STOP_WIDTH_M,
        ):
            wanted += [s.center - d, s.center + d]
        wanted.append(s.center)
    cuts = np.unique(np.round(wanted, 6))
    parts = [cuts[:1]]
    for lo, hi in itertools.pairwise(cuts):
        step = 5.0 if max(abs(lo), abs(hi)) < edge - 0.5 * OUTSKIRTS_M else 9.0
        parts.append(np.linspace(lo, hi, max(1, int(np.ceil((hi - lo) / step))) + 1)[1:])
    lines = np.concatenate(parts)
    mid = 0.5 * (lines[:-1] + lines[1:])
    center = np.array([s.center for s in streets])
    street = np.abs(mid[:, None] - center).argmin(axis=1)
    dist = np.abs(mid - center[street])
    road = np.array([s.half_road for s in streets])[street]
    total = np.array([s.half_total for s in streets])[street]
    role = np.where(dist < road, _ROAD, np.where(dist < total, _SIDE, _BLOCK))
    stop = (dist > total + STOP_GAP_M) & (dist < total + STOP_GAP_M + STOP_WIDTH_M)
    return _Bands(lines, role, street, mid > center[street], (mid[:, None] > center).sum(axis=1), stop)


def build_ground(layout: Layout, builder: MeshBuilder, lawn: NDArray[np.bool_]) -> None:
    """Mesh roads, crossings, sidewalks, kerbs and blocks. ``lawn`` [5, 5]: the block (a, b) is grass, else paved."""
    A, B = _bands(layout.axes[0], layout.edge), _bands(layout.axes[1], layout.edge)
    ni, nj = len(A.role), len(B.role)
    lift = np.full((ni, nj), KERB_M)
    look = np.empty((ni, nj, 4), dtype=np.int64)  # kind, layer, tag, street axis giving (across, along)
    open_a, open_b = layout.is_open
    for i in range(ni):
        for j in range(nj):
            look[i, j] = _cell(A, B, i, j, open_a, open_b, layout, lawn)
            if look[i, j, 0] in (mesh.ROAD, mesh.ZEBRA, mesh.STOP_LINE):
                lift[i, j] = 0.0
    ab = np.stack(np.meshgrid(A.lines, B.lines, indexing="ij"), axis=-1)  # [ni+1, nj+1, 2]
    xyz = layout.ground(ab)
    corner = [(0, 0), (1, 0), (1, 1), (0, 1)]  # a then b: the cross product points up
    quads = np.stack([xyz[di : ni + di, dj : nj + dj] for di, dj in corner], axis=2)  # [ni, nj, 4, 3]
    quads[..., 2] += lift[..., None]
    plan = np.stack([ab[di : ni + di, dj : nj + dj] for di, dj in corner], axis=2)
    white = (1.0, 1.0, 1.0)
    for kind, layer, tag, axis in np.unique(look.reshape(-1, 4), axis=0):
        which = (look == (kind, layer, tag, axis)).all(axis=2)
        if kind in (mesh.ROAD, mesh.ZEBRA, mesh.STOP_LINE) and axis >= 0:
            bands = (A, B)[axis]
            street = bands.street[np.nonzero(which)[axis]]
            center = np.array([s.center for s in layout.axes[axis]])[street][:, None]
            across = center - plan[which][..., 0] if axis == 0 else plan[which][..., 1] - center
            uv = np.stack([across, plan[which][..., 1 - axis]], axis=-1)
        else:
            period = textures.PERIOD_M[int(layer)]
            uv = plan[which] / period
        q = quads[which]
        split = [[0, 1, 2], [0, 2, 3]]
        builder.add(q[:, split], uv[:, split], int(kind), int(layer), white, int(tag))
    _kerbs(builder, quads, lift)


def _cell(A: _Bands, B: _Bands, i, j, open_a, open_b, layout: Layout, lawn) -> tuple[int, int, int, int]:
    """What covers band i of a and band j of b: (kind, texture layer, tag, axis of the street coordinates)."""
    sa, sb, ra, rb = A.street[i], B.street[j], A.role[i], B.role[j]
    grass = (mesh.GROUND, textures.GRASS, 0, -1)
    block = grass if lawn[A.gap[i], B.gap[j]] else (mesh.GROUND, textures.CONCRETE, 0, -1)
    side = (mesh.GROUND, textures.PAVING, 0, -1)
    if ra == _BLOCK and rb == _BLOCK:
        return block
    if rb == _BLOCK or ra == _BLOCK:  # along one street, between crossings
        axis = 0 if rb == _BLOCK else 1
        own, other = ((A, i), (B, j)) if axis == 0 else ((B, j), (A, i))
        street, role = own[0].street[own[1]], own[0].role[own[1]]
        if not (open_a, open_b)[axis][street, other[0].gap[other[1]]]:
            return block
        if role == _SIDE:
            return side
        cross, upper = other[0].street[other[1]], other[0].upper[other[1]]
        arms = (open_a, open_b)[1 - axis][cross, street : street + 2]
        if other[0].stop[other[1]] and arms.any():
            return mesh.STOP_LINE, textures.ASPHALT, (-1 if upper else 1), axis
        return mesh.ROAD, textures.ASPHALT, layout.axes[axis][street].tag, axis
    arms_a, arms_b = open_a[sa, sb : sb + 2], open_b[sb, sa : sa + 2]
    if not arms_a.any() and not arms_b.any():
        return block
    if ra == _SIDE and rb == _SIDE:
        return side
    if ra == _ROAD and rb == _ROAD:
        if arms_a.any() and arms_b.any():
            return mesh.ROAD, textures.ASPHALT, 0, -1
        axis = 0 if arms_a.any() else 1
        return mesh.ROAD, textures.ASPHALT, layout.axes[axis][(sa, sb)[axis]].tag, axis
    axis = 0 if ra == _ROAD else 1  # the arm of one street beside the other street's road
    arms, others, upper = (arms_a, arms_b, B.upper[j]) if axis == 0 else (arms_b, arms_a, A.upper[i])
    if not arms[int(upper)]:
        return side
    if not others.any():
        return mesh.ROAD, textures.ASPHALT, layout.axes[axis][(sa, sb)[axis]].tag, axis
    return mesh.ZEBRA, textures.ASPHALT, 0, axis


def _kerbs(builder: MeshBuilder, quads: NDArray[np.float64], lift: NDArray[np.float64]) -> None:
    """Close the steps between cells of different height with upright faces turned to the lower side."""
    period = textures.PERIOD_M[textures.CONCRETE]
    # Shared edge seen from the first cell, as its corner numbers, ordered so that the face looks to the second.
    for axis, (c0, c1) in ((0, (1, 2)), (1, (2, 3))):
        first = quads[:-1] if axis == 0 else quads[:, :-1]
        l0 = lift[:-1] if axis == 0 else lift[:, :-1]
        l1 = lift[1:] if axis == 0 else lift[:, 1:]
        for sign in (1, -1):
            step = (l0 - l1) * sign > 1e-6
            p, q = first[step][:, c0].copy(), first[step][:, c1].copy()
            if sign < 0:
                p, q = q, p
            base = np.minimum(l0, l1)[step] - l0[step]
            rise = np.abs(l0 - l1)[step]
            p[:, 2] += base
            q[:, 2] += base
            up = np.zeros_like(p)
            up[:, 2] = rise
            face = np.stack([p, q, q + up, p + up], axis=1)
            length = np.linalg.norm(q - p, axis=1) / period
            zero = np.zeros_like(length)
            high = np.full_like(length, 0.1)
            uv = np.stack(
                [np.stack(c, 1) for c in ((zero, zero), (length, zero), (length, high), (zero, high))], 1
            )
            split = [[0, 1, 2], [0, 2, 3]]
            builder.add(face[:, split], uv[:, split], mesh.PLAIN, textures.CONCRETE, (0.85, 0.85, 0.85))
