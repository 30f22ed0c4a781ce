"""A whole town: ground, houses, vegetation, street furniture and parked cars as one mesh plus its textures."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

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
    builder = _Builder(b, rng, layout, flora, style)
    for i in range(5):
        for j in range(5):
            builder.block(i, j, style.blocks[pick[i, j]], bool(lawn[i, j]))
    for axis in range(2):
        for k in range(len(layout.axes[axis])):
            builder.street_furniture(axis, k, axis == green)
    builder.forest()
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


class _Side(NamedTuple):
    """One of the four sides of a block, in plan coordinates."""

    axis: int  # of the street before it
    street: int  # and its index, which may be outside the town
    facing: tuple[float, float]  # towards the street
    edge: float  # where the block ends
    start: float  # of the frontage
    stop: float

    def at(self, along: float, inward: float) -> NDArray[np.float64]:
        """[2] plan point ``inward`` metres inside the block."""
        if self.facing[0] != 0.0:
            return np.array([self.edge - self.facing[0] * inward, along])
        return np.array([along, self.edge - self.facing[1] * inward])


@dataclass(frozen=True)
class _Builder:
    """Puts what stands in a town into one mesh."""

    b: MeshBuilder
    rng: Generator
    layout: Layout
    flora: Flora
    style: TownStyle

    def block(self, i: int, j: int, character: buildings.Character, lawn: bool) -> None:
        """Houses along the four sides of a block, trees in its middle, gardens in front of the houses."""
        rng = self.rng
        a0, a1, b0, b1 = _block_rect(self.layout, i, j)
        sides = (_Side(0, i - 1, (-1.0, 0.0), a0, b0, b1), _Side(0, i, (1.0, 0.0), a1, b0, b1),
                 _Side(1, j - 1, (0.0, -1.0), b0, a0, a1), _Side(1, j, (0.0, 1.0), b1, a0, a1))  # fmt: skip
        room = 0.5 * min(a1 - a0, b1 - b0) - 1.0
        deepest = 0.0
        for side in sides:
            deepest = max(deepest, self._houses(side, character, room))
            if character.setback[1] > 2.5 and rng.uniform() < 0.75:
                self._fence(side)
        n_trees = int(rng.integers(*self.style.trees)) if lawn else int(rng.integers(0, 3))
        if character.grove is not None:
            n_trees += int(rng.integers(*character.grove))
        inner = min(deepest + 2.5, room)
        for _ in range(n_trees):
            self._tree(rng.uniform((a0 + inner, b0 + inner), (a1 - inner, b1 - inner)), 0.0)
        if character.gardens:
            for side in sides:
                self._garden(side)

    def _houses(self, side: _Side, character: buildings.Character, room: float) -> float:
        """A row of houses at most ``room`` deep along a side where there is a street; how far inward it reaches."""
        rng, deepest = self.rng, 0.0
        exists = 0 <= side.street < len(self.layout.axes[side.axis]) and self.layout.segment_is_open(
            side.axis, side.street, 0.5 * (side.start + side.stop)
        )
        corner = min(room, 17.0) if side.axis == 1 else 0.6  # houses of the other sides own the corners
        here = side.start + corner
        while exists and here < side.stop - corner - 6.0:
            width = min(rng.uniform(*character.width), side.stop - corner - here)
            depth = min(rng.uniform(*character.depth), room - character.setback[1])
            setback = rng.uniform(*character.setback) + 0.8
            if width < 6.0 or depth < 5.0:
                break
            if rng.uniform() < character.filled:
                center = side.at(here + width / 2, setback + depth / 2)
                size = (width - 0.2, depth)
                buildings.build_house(
                    self.b, rng, self.layout, center, side.facing, size, character, self.style.colours
                )
                deepest = max(deepest, setback + depth)
            here += width + rng.uniform(*character.gap)
        return deepest

    def _garden(self, side: _Side) -> None:
        """Bushes and small trees in front of the houses."""
        rng = self.rng
        for _ in range(int(rng.integers(1, 5))):
            ab = side.at(rng.uniform(side.start + 2, side.stop - 2), rng.uniform(1.4, 3.0))
            if rng.uniform() < 0.5:
                self.flora.plants.bush(self.b, rng, self.layout.ground(ab, 0.3), rng.uniform(0.5, 1.1))
            else:
                self._tree(ab, -3.0)

    def _fence(self, side: _Side) -> None:
        """A wall or hedge along a side of a block, with openings."""
        rng = self.rng
        layer = int(rng.choice([textures.BRICK, textures.HEDGE, textures.PLASTER, textures.BRICK]))
        tint = {
            textures.BRICK: np.array([0.85, 0.5, 0.38]) * rng.uniform(0.75, 1.3, 3),
            textures.HEDGE: np.array([0.9, 1.0, 0.8]) * rng.uniform(0.8, 1.2),
            textures.PLASTER: np.array([1.1, 1.05, 0.95]) * rng.uniform(0.7, 1.1),
        }[layer]
        height, thick = rng.uniform(0.8, 2.3), 0.7 if layer == textures.HEDGE else 0.25
        here, stop = side.start + 0.5, side.stop - 0.5
        while here < stop - 3.0:
            end = min(here + rng.uniform(6.0, 26.0), stop)
            n = max(2, int((end - here) / 4.0) + 1)
            ab = np.stack([side.at(t, 0.45) for t in np.linspace(here, end, n)])
            props.barrier(self.b, self.layout.ground(ab, 0.0), height, thick, layer, np.clip(tint, 0, 1.4))
            here = end + rng.uniform(1.5, 5.0)

    def _tree(self, ab: NDArray[np.float64], grow: float, needles: float = 1.0) -> None:
        """A tree at a plan point, ``grow`` metres taller than usual, a conifer ``needles`` times as often."""
        height = max(3.0, self.rng.uniform(6.0, 12.5) + grow)
        ground = self.layout.ground(ab, 0.0)
        self.flora.plants.tree(self.b, self.rng, ground, height, self.flora.needles * needles)

    def street_furniture(self, axis: int, k: int, green: bool) -> None:
        """Lamps, trees and bins on both sidewalks of a street, traffic lights at its crossings."""
        rng, street = self.rng, self.layout.axes[axis][k]
        tint = rng.uniform(0.15, 0.6) * np.ones(3)
        height, spacing = rng.uniform(*self.style.lamp_m), rng.uniform(19.0, 32.0)
        planted = rng.uniform() < self.style.street_trees and street.sidewalk > 2.8
        builder = MeshBuilder()
        props.lamp_post(builder, height, 1.8, tint)
        lamp = builder.build()
        for side in (-1, 1):
            self._sidewalk(axis, k, side, lamp, spacing, planted)
        self._signals(axis, k, green)

    def _sidewalk(self, axis: int, k: int, side: int, lamp: Mesh, spacing: float, planted: bool) -> None:
        """A lamp about every ``spacing`` metres, trees half way between them, some bins."""
        rng, layout = self.rng, self.layout
        street, others = layout.axes[axis][k], layout.axes[1 - axis]

        def clearance(along: float) -> float:
            return min(abs(along - o.center) - o.half_total for o in others)

        along = -layout.edge + 40.0 + rng.uniform(0, spacing)
        while along < layout.edge - 40.0:
            if clearance(along) > 2.0 and layout.segment_is_open(axis, k, along):
                ab = layout.street_point(axis, k, side * (street.half_road + 0.5), along)
                inward = layout.street_point(axis, k, side * (street.half_road - 1.0), along) - ab
                self._place(lamp, ab, layout.heading(ab, inward / np.linalg.norm(inward)))
                if planted and clearance(along + spacing / 2) > 4.0:
                    ab = layout.street_point(axis, k, side * (street.half_road + 0.9), along + spacing / 2)
                    self._tree(ab, -2.0, needles=0.3)
                if rng.uniform() < 0.4:
                    across = side * (street.half_total - 0.5)
                    self._bin(layout.street_point(axis, k, across, along + rng.uniform(1.5, 6.0)))
            along += spacing * rng.uniform(0.9, 1.1)

    def _signals(self, axis: int, k: int, green: bool) -> None:
        """Traffic lights of a street, for both directions at each of its crossings."""
        layout = self.layout
        street = layout.axes[axis][k]
        builder = MeshBuilder()
        # A signal's +y is the driver's right, so the arm that reaches over the road points to -y.
        props.traffic_light(builder, -(street.half_road - 1.0), green)
        signal = builder.build()
        for other in layout.axes[1 - axis]:
            for side in (-1, 1):  # the signal of traffic that approaches from the other side of the crossing
                along = other.center + side * (other.half_total - 0.4)
                if not layout.segment_is_open(axis, k, other.center - side * (other.half_total + 3.0)):
                    continue
                ab = layout.street_point(axis, k, side * (street.half_road + 0.6), along)
                here, next_m = (layout.street_point(axis, k, 0.0, a) for a in (along, along + side))
                self._place(signal, ab, layout.heading(ab, next_m - here))

    def _place(self, thing: Mesh, ab: NDArray[np.float64], yaw: float) -> None:
        """Put a thing on the ground at a plan point."""
        x, y, z = self.layout.ground(ab, 0.0)
        self.b.place(thing, placed(x, y, z, yaw))

    def _bin(self, ab: NDArray[np.float64]) -> None:
        rng = self.rng
        x, y, z = self.layout.ground(ab, 0.0)
        size = rng.uniform([0.4, 0.4, 0.7], [1.0, 0.8, 1.3])
        self.b.box(placed(x, y, z, rng.uniform(0, 6.28)), size, textures.METAL, rng.uniform(0.05, 0.9, 3))

    def forest(self) -> None:
        """Woods on the outskirts, clear of the roads that leave the town."""
        layout = self.layout
        n = int(self.rng.integers(*self.style.woods))
        inner = layout.edge - OUTSKIRTS_M
        placed_trees = 0
        while placed_trees < n:
            ab = self.rng.uniform(-layout.edge + 3, layout.edge - 3, 2)
            if np.abs(ab).max() < inner + 52.0:
                continue
            if any(abs(ab[k] - s.center) < s.half_total + 4.0 for k in range(2) for s in layout.axes[k]):
                continue
            self._tree(ab, 2.0)
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
