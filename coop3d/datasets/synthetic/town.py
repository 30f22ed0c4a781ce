"""A whole town: ground, houses, vegetation, street furniture and parked cars as one mesh plus its textures."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from . import buildings, props, textures
from .domain import TOWN, Domain, TownStyle
from .layout import OUTSKIRTS_M, PARKING_M, Layout, Street, build_ground, make_layout
from .mesh import Mesh, MeshBuilder, placed
from .vehicles import Body, make_body

FIRST_PARKED_ID = 100


@dataclass(frozen=True)
class Flora:
    """What grows in a town, and the share of conifers."""

    plants: props.Plants
    needles: float


@dataclass(frozen=True)
class ParkedCar:
    id: int
    body: Body
    street: tuple[int, int]  # axis, index
    across: float
    along: float
    forward: int  # +1: points towards growing ``along``


@dataclass(frozen=True)
class Town:
    """What never moves. ``mesh`` excludes the parked cars, whose poses the traffic module computes."""

    layout: Layout
    mesh: Mesh
    parked: tuple[ParkedCar, ...]
    green_axis: int  # streets of this axis have the green light
    rng: Generator = field(repr=False)  # of the textures, drawn last
    domain: Domain = TOWN

    @cached_property
    def atlas(self) -> textures.Atlas:
        """Textures; made for the first photograph, since a layout needs none."""
        return textures.make_atlas(self.rng, self.domain.town.paint)


class TownPlan(NamedTuple):
    """What traffic asks of a town: its streets, and the axis that has the green light."""

    layout: Layout
    green_axis: int
    domain: Domain = TOWN


def town_plan(rng: Generator, domain: Domain = TOWN) -> TownPlan:
    """What :func:`make_town` draws first from the same ``rng``."""
    return TownPlan(make_layout(rng, domain.town.streets), int(rng.integers(2)), domain)


def make_town(rng: Generator, domain: Domain = TOWN) -> Town:
    """Draw a town of a domain. Everything about it follows from ``rng``."""
    layout, green, _ = town_plan(rng, domain)
    style, b = domain.town, MeshBuilder()
    mood = rng.dirichlet(style.mood)
    pick = rng.choice(len(style.blocks), size=(5, 5), p=mood)
    lawn = np.array([c.lawn for c in style.blocks])[pick] | (rng.uniform(size=(5, 5)) < 0.2)
    lawn[[0, -1]] = lawn[:, [0, -1]] = True
    build_ground(layout, b, lawn)
    flora = Flora(props.make_plants(rng, style.green), rng.uniform(0.1, 0.9))
    for i in range(5):
        for j in range(5):
            _block(b, rng, layout, i, j, style.blocks[pick[i, j]], bool(lawn[i, j]), flora, style)
    for axis in range(2):
        for k in range(len(layout.axes[axis])):
            _street_furniture(b, rng, layout, axis, k, green, flora, style)
    _forest(b, rng, layout, flora, style.woods)
    parked = _park_cars(rng, layout)
    return Town(layout, b.build(), parked, green, rng, domain)


def _block_rect(layout: Layout, i: int, j: int) -> tuple[float, float, float, float]:
    """Plan rectangle a0, a1, b0, b1 of block (i, j) between the sidewalks; outer blocks reach 45 m out."""
    out = []
    for axis, k in ((0, i), (1, j)):
        streets = layout.axes[axis]
        lo = (
            streets[k - 1].center + streets[k - 1].half_total
            if k > 0
            else streets[0].center - streets[0].half_total - 45
        )
        hi = streets[k].center - streets[k].half_total if k < len(streets) else lo + 45
        out += [lo, hi]
    return out[0], out[1], out[2], out[3]


def _block(
    b,
    rng: Generator,
    layout: Layout,
    i,
    j,
    style: buildings.Character,
    lawn: bool,
    flora: Flora,
    town: TownStyle,
) -> None:
    """Houses along the four sides of a block, trees in its middle."""
    a0, a1, b0, b1 = _block_rect(layout, i, j)
    deepest = 0.0
    # (axis of the facing street, its index, plan direction of the front, start and end of the frontage)
    sides = [(0, i - 1, (-1.0, 0.0), b0, b1), (0, i, (1.0, 0.0), b0, b1),
             (1, j - 1, (0.0, -1.0), a0, a1), (1, j, (0.0, 1.0), a0, a1)]  # fmt: skip
    room = 0.5 * min(a1 - a0, b1 - b0) - 1.0
    for axis, street, facing, start, stop in sides:
        exists = 0 <= street < len(layout.axes[axis]) and layout.segment_is_open(
            axis, street, 0.5 * (start + stop)
        )
        edge = {(-1.0, 0.0): a0, (1.0, 0.0): a1, (0.0, -1.0): b0, (0.0, 1.0): b1}[facing]
        corner = min(room, 17.0) if axis == 1 else 0.6  # houses of the other sides own the corners
        here = start + corner
        fence_from = start + 0.5
        while exists and here < stop - corner - 6.0:
            width = min(rng.uniform(*style.width), stop - corner - here)
            depth = min(rng.uniform(*style.depth), room - style.setback[1])
            setback = rng.uniform(*style.setback) + 0.8
            if width < 6.0 or depth < 5.0:
                break
            if rng.uniform() < style.filled:
                middle = here + width / 2
                center = _on_side(facing, edge, middle, setback + depth / 2)
                size = (width - 0.2, depth)
                buildings.build_house(b, rng, layout, center, facing, size, style, town.colours)
                deepest = max(deepest, setback + depth)
            gap = rng.uniform(*style.gap)
            here += width + gap
        if style.setback[1] > 2.5 and rng.uniform() < 0.75:
            _fence(b, rng, layout, facing, edge, fence_from, stop - 0.5)
    n_trees = int(rng.integers(*town.trees)) if lawn else int(rng.integers(0, 3))
    if style.grove is not None:
        n_trees += int(rng.integers(*style.grove))
    inner = min(deepest + 2.5, room)
    for _ in range(n_trees):
        ab = np.array([rng.uniform(a0 + inner, a1 - inner), rng.uniform(b0 + inner, b1 - inner)])
        _tree(b, rng, layout, ab, flora, 0.0)
    if style.gardens:  # in front of the houses
        for _, _, facing, start, stop in sides:
            edge = {(-1.0, 0.0): a0, (1.0, 0.0): a1, (0.0, -1.0): b0, (0.0, 1.0): b1}[facing]
            for _ in range(int(rng.integers(1, 5))):
                ab = _on_side(facing, edge, rng.uniform(start + 2, stop - 2), rng.uniform(1.4, 3.0))
                if rng.uniform() < 0.5:
                    flora.plants.bush(b, rng, layout.ground(ab, 0.3), rng.uniform(0.5, 1.1))
                else:
                    _tree(b, rng, layout, ab, flora, -3.0)


def _on_side(facing, edge: float, along: float, inward: float) -> np.ndarray:
    """Plan point ``inward`` metres inside the block from the side at plan coordinate ``edge``."""
    if facing[0] != 0.0:
        return np.array([edge - facing[0] * inward, along])
    return np.array([along, edge - facing[1] * inward])


def _fence(b, rng: Generator, layout: Layout, facing, edge: float, start: float, stop: float) -> None:
    """A wall or hedge along a side of a block, with openings."""
    layer = int(rng.choice([textures.BRICK, textures.HEDGE, textures.PLASTER, textures.BRICK]))
    tint = {
        textures.BRICK: np.array([0.85, 0.5, 0.38]) * rng.uniform(0.75, 1.3, 3),
        textures.HEDGE: np.array([0.9, 1.0, 0.8]) * rng.uniform(0.8, 1.2),
        textures.PLASTER: np.array([1.1, 1.05, 0.95]) * rng.uniform(0.7, 1.1),
    }[layer]
    height, thick = rng.uniform(0.8, 2.3), 0.7 if layer == textures.HEDGE else 0.25
    here = start
    while here < stop - 3.0:
        end = min(here + rng.uniform(6.0, 26.0), stop)
        n = max(2, int((end - here) / 4.0) + 1)
        ab = np.stack([_on_side(facing, edge, t, 0.45) for t in np.linspace(here, end, n)])
        props.barrier(b, layout.ground(ab, 0.0), height, thick, layer, np.clip(tint, 0, 1.4))
        here = end + rng.uniform(1.5, 5.0)


def _tree(
    b, rng: Generator, layout: Layout, ab, flora: Flora, grow: float, needles: float | None = None
) -> None:
    """A tree at a plan point, ``grow`` metres taller than usual."""
    height = max(3.0, rng.uniform(6.0, 12.5) + grow)
    flora.plants.tree(b, rng, layout.ground(ab, 0.0), height, flora.needles if needles is None else needles)


def _street_furniture(
    b, rng: Generator, layout: Layout, axis: int, k: int, green: int, flora: Flora, style: TownStyle
) -> None:
    """Lamps, trees and bins on both sidewalks of a street, traffic lights at its crossings."""
    street = layout.axes[axis][k]
    others = layout.axes[1 - axis]
    tint = rng.uniform(0.15, 0.6) * np.ones(3)
    height, spacing = rng.uniform(*style.lamp_m), rng.uniform(19.0, 32.0)
    planted = rng.uniform() < style.street_trees and street.sidewalk > 2.8
    lamp_builder, signal_builder = MeshBuilder(), MeshBuilder()
    props.lamp_post(lamp_builder, height, 1.8, tint)
    # A signal's +y is the driver's right, so the arm that reaches over the road points to -y.
    props.traffic_light(signal_builder, -(street.half_road - 1.0), axis == green)
    lamp, signal = lamp_builder.build(), signal_builder.build()
    for side in (-1, 1):
        along = -layout.edge + 40.0 + rng.uniform(0, spacing)
        while along < layout.edge - 40.0:
            clear = min(abs(along - o.center) - o.half_total for o in others) > 2.0
            if clear and layout.segment_is_open(axis, k, along):
                ab = layout.street_point(axis, k, side * (street.half_road + 0.5), along)
                inward = layout.street_point(axis, k, side * (street.half_road - 1.0), along) - ab
                yaw = layout.heading(ab, inward / np.linalg.norm(inward))
                x, y, z = layout.ground(ab, 0.0)
                b.place(lamp, placed(x, y, z, yaw))
                if planted:
                    ab = layout.street_point(axis, k, side * (street.half_road + 0.9), along + spacing / 2)
                    if min(abs(along + spacing / 2 - o.center) - o.half_total for o in others) > 4.0:
                        _tree(b, rng, layout, ab, flora, -2.0, flora.needles * 0.3)
                if rng.uniform() < 0.4:
                    _bin(
                        b,
                        rng,
                        layout,
                        axis,
                        k,
                        side * (street.half_total - 0.5),
                        along + rng.uniform(1.5, 6.0),
                    )
            along += spacing * rng.uniform(0.9, 1.1)
    for other in others:
        for side in (-1, 1):  # the signal of traffic that approaches from the other side of the crossing
            along = other.center + side * (other.half_total - 0.4)
            if not layout.segment_is_open(axis, k, other.center - side * (other.half_total + 3.0)):
                continue
            ab = layout.street_point(axis, k, side * (street.half_road + 0.6), along)
            ahead = layout.street_point(axis, k, 0.0, along + side) - layout.street_point(axis, k, 0.0, along)
            x, y, z = layout.ground(ab, 0.0)
            b.place(signal, placed(x, y, z, layout.heading(ab, ahead)))


def _bin(b, rng: Generator, layout: Layout, axis, k, across, along) -> None:
    ab = layout.street_point(axis, k, across, along)
    x, y, z = layout.ground(ab, 0.0)
    size = rng.uniform([0.4, 0.4, 0.7], [1.0, 0.8, 1.3])
    b.box(placed(x, y, z, rng.uniform(0, 6.28)), size, textures.METAL, rng.uniform(0.05, 0.9, 3))


def _forest(b, rng: Generator, layout: Layout, flora: Flora, woods: tuple[int, int]) -> None:
    """Woods on the outskirts, clear of the roads that leave the town."""
    n = int(rng.integers(*woods))
    inner = layout.edge - OUTSKIRTS_M
    placed_trees = 0
    while placed_trees < n:
        ab = rng.uniform(-layout.edge + 3, layout.edge - 3, 2)
        if np.abs(ab).max() < inner + 52.0:
            continue
        if any(abs(ab[axis] - s.center) < s.half_total + 4.0 for axis in range(2) for s in layout.axes[axis]):
            continue
        _tree(b, rng, layout, ab, flora, 2.0)
        placed_trees += 1


def _park_cars(rng: Generator, layout: Layout) -> tuple[ParkedCar, ...]:
    """Cars at the kerb of streets with a parking lane, clear of the crossings."""
    parked: list[ParkedCar] = []
    for axis in range(2):
        for k, street in enumerate(layout.axes[axis]):
            if not street.parking:
                continue
            density = rng.uniform(0.2, 0.75)
            for side in (-1, 1):
                parked += _park_along(
                    rng, layout, axis, k, street, side, density, FIRST_PARKED_ID + len(parked)
                )
    return tuple(parked)


def _park_along(rng, layout: Layout, axis, k, street: Street, side, density, next_id) -> list[ParkedCar]:
    out: list[ParkedCar] = []
    along, last = -layout.edge + OUTSKIRTS_M - 25.0, layout.edge - OUTSKIRTS_M + 25.0
    while along < last:
        clear = all(abs(along - o.center) > o.half_total + 8.0 for o in layout.axes[1 - axis])
        if clear and layout.segment_is_open(axis, k, along) and rng.uniform() < density:
            body = make_body(rng, connected=False)
            if body.style != "truck":
                across = side * (street.half_road - PARKING_M / 2 - 0.05 + rng.uniform(-0.12, 0.12))
                forward = side if rng.uniform() < 0.93 else -side
                out.append(ParkedCar(next_id + len(out), body, (axis, k), across, along, forward))
        along += 6.2 + rng.uniform(0, 1.0)
    return out
