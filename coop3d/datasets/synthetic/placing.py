"""Where cars stand at the middle of a scenario: lanes, connected vehicles, background traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .layout import LANE_M, OUTSKIRTS_M, Layout, Street
from .town import Town, TownPlan
from .vehicles import Body, make_body


@dataclass(frozen=True)
class Lane:
    axis: int
    street: int
    forward: int  # +1: towards growing ``along``
    number: int  # 0 next to the centre line

    @property
    def across(self) -> float:
        return self.forward * (self.number + 0.5) * LANE_M


@dataclass
class Car:
    lane: Lane
    mid: float  # forward * along at the middle of the scenario, m
    body: Body
    connected: bool


def lanes_of(layout: Layout, axis: int, street: int) -> list[Lane]:
    n = layout.axes[axis][street].lanes
    return [Lane(axis, street, f, k) for f in (-1, 1) for k in range(n)]


def plan_xy(layout: Layout, lane: Lane, s: float) -> NDArray[np.float64]:
    return layout.to_world(layout.street_point(lane.axis, lane.street, lane.across, lane.forward * s))


def place_connected(rng: Generator, town: Town | TownPlan, n: int) -> list[Car]:
    """The first car near the town's centre, each further one related to a car already there.

    Related: following or leading (35 %), oncoming (25 %), on a crossing street (40 %), 6 to 60 m away.
    """
    layout = town.layout
    axis = int(rng.integers(2))
    street = int(rng.integers(1, 3))
    lanes = lanes_of(layout, axis, street)
    first = lanes[rng.integers(len(lanes))]
    cars = [Car(first, float(rng.uniform(-45, 45)), make_body(rng, True, town.domain.connected), True)]
    wish = 1.0
    while len(cars) < n:
        anchor = cars[rng.integers(len(cars))]
        here = plan_xy(layout, anchor.lane, anchor.mid)
        kind = rng.uniform()
        if kind < 0.6:
            lanes = [q for q in lanes_of(layout, anchor.lane.axis, anchor.lane.street)
                     if (q.forward == anchor.lane.forward) == (kind < 0.35)]  # fmt: skip
            lane = lanes[rng.integers(len(lanes))]
            along = anchor.lane.forward * anchor.mid + rng.choice([-1, 1]) * rng.gamma(3.0, 7.5) * wish
        else:
            other = 1 - anchor.lane.axis
            centers = np.array([s.center for s in layout.axes[other]])
            cross = int(np.abs(centers[1:3] - anchor.lane.forward * anchor.mid).argmin()) + 1
            lanes = lanes_of(layout, other, cross)
            lane = lanes[rng.integers(len(lanes))]
            crossing = layout.axes[anchor.lane.axis][anchor.lane.street].center
            along = crossing + rng.choice([-1, 1]) * rng.gamma(3.0, 8.0) * wish
        mid = out_of_crossings(town, lane, lane.forward * along)
        at = plan_xy(layout, lane, mid)
        dist = [np.hypot(*(at - plan_xy(layout, c.lane, c.mid))) for c in cars]
        same = [abs(mid - c.mid) for c in cars if c.lane == lane]
        if min(dist) > 5.0 and np.hypot(*(at - here)) < 60.0 and min(same, default=99.0) > 9.0:
            cars.append(Car(lane, mid, make_body(rng, True, town.domain.connected), True))
        wish = min(wish * 1.03, 3.0)
    return cars


# Where a connected vehicle stands relative to one placed before, and how often, when distances are drawn first.
_RELATIONS = ("same direction", "oncoming", "crossing", "parallel")
_RELATION_SHARES = (0.3, 0.25, 0.3, 0.15)
_TRIES = 40
_SLACK_M = 0.3  # between the wanted distance and a place on a grid of half that
_BUMPERS_M = 9.0  # between the middles of two cars in one lane


def place_connected_at(rng: Generator, town: Town | TownPlan, wanted_m: Sequence[float]) -> list[Car]:
    """A first car near the town's centre, then one per wanted distance, that far from the nearest car before it.

    The lane is drawn by its relation to a car already there, then the place among all that fit. Where no lane drawn in
    many tries has one, the place that comes nearest to the wanted distance is taken.

    Args:
        wanted_m: metres from each further car to the nearest of those before it.
    """
    layout = town.layout
    lanes = lanes_of(layout, int(rng.integers(2)), int(rng.integers(1, 3)))
    first = lanes[rng.integers(len(lanes))]
    mid = out_of_crossings(town, first, float(rng.uniform(-45, 45)))
    cars = [Car(first, mid, make_body(rng, True, town.domain.connected), True)]
    for wanted in wanted_m:
        best: tuple[float, Lane, float] | None = None
        for _ in range(_TRIES):
            lane = _related_lane(rng, layout, cars[rng.integers(len(cars))].lane)
            found = _place_on(rng, town, lane, cars, wanted)
            if found is not None and (best is None or found[0] < best[0]):
                best = (found[0], lane, found[1])
            if best is not None and best[0] < _SLACK_M:
                break
        assert best is not None, "a town has room for a car"
        cars.append(Car(best[1], best[2], make_body(rng, True, town.domain.connected), True))
    return cars


def _related_lane(rng: Generator, layout: Layout, anchor: Lane) -> Lane:
    relation = rng.choice(_RELATIONS, p=_RELATION_SHARES)
    if relation in ("same direction", "oncoming"):
        lanes = [q for q in lanes_of(layout, anchor.axis, anchor.street)
                 if (q.forward == anchor.forward) == (relation == "same direction")]  # fmt: skip
    else:
        axis = 1 - anchor.axis if relation == "crossing" else anchor.axis
        streets = [k for k in range(len(layout.axes[axis])) if (axis, k) != (anchor.axis, anchor.street)]
        lanes = lanes_of(layout, axis, streets[rng.integers(len(streets))])
    return lanes[rng.integers(len(lanes))]


def _place_on(
    rng: Generator, town: Town | TownPlan, lane: Lane, cars: Sequence[Car], wanted_m: float
) -> tuple[float, float] | None:
    """(error of the distance in metres, ``forward * along``) of a free place of a lane, or None if there is none.

    Drawn among the places whose error is within the slack; the one of least error where there is none such.
    """
    layout = town.layout
    reach = layout.edge - OUTSKIRTS_M + 25.0
    s = np.arange(-reach, reach, 0.5 * _SLACK_M)
    crossings = layout.axes[1 - lane.axis]
    passed = (np.array([o.center for o in crossings])[:, None] < lane.forward * s).sum(axis=0)
    free = layout.is_open[lane.axis][lane.street, passed]
    if lane.axis != town.green_axis:
        for other in crossings:
            free &= ~_inside_crossing(s - lane.forward * other.center, other)
    for car in cars:
        if car.lane == lane:
            free &= np.abs(s - car.mid) > _BUMPERS_M
    if not free.any():
        return None
    s = s[free]
    across = np.full(len(s), lane.across)
    here = layout.to_world(layout.street_point(lane.axis, lane.street, across, lane.forward * s))  # [N, 2]
    taken = np.stack([plan_xy(layout, c.lane, c.mid) for c in cars])
    error = np.abs(np.linalg.norm(here[:, None] - taken, axis=2).min(axis=1) - wanted_m)
    fits = np.flatnonzero(error < _SLACK_M)
    k = int(rng.choice(fits)) if len(fits) else int(error.argmin())
    return float(error[k]), float(s[k])


def _inside_crossing(rel, crossed: Street):
    """Whether a car would stand in the way ``rel`` metres past the axis of the street it crosses; one or [N]."""
    return (rel > -(crossed.half_total + 5.0)) & (rel < crossed.half_total + 4.0)


def out_of_crossings(town: Town | TownPlan, lane: Lane, s: float) -> float:
    """Move a car that waits for red but would stand inside a crossing back to its stop line."""
    if lane.axis == town.green_axis:
        return s
    for other in town.layout.axes[1 - lane.axis]:
        rel = s - lane.forward * other.center
        if _inside_crossing(rel, other):
            return s - rel - (other.half_total + 5.0)
    return s


def place_background(rng: Generator, layout: Layout, taken: list[Car]) -> list[Car]:
    """Other cars on every open lane, with room between them."""
    cars: list[Car] = []
    for axis in range(2):
        for street in range(len(layout.axes[axis])):
            density = rng.uniform(15.0, 70.0)
            for lane in lanes_of(layout, axis, street):
                own = [c.mid for c in taken if c.lane == lane]
                reach = layout.edge - OUTSKIRTS_M + 25.0
                s = -reach + rng.uniform(0, density)
                while s < reach:
                    open_here = layout.segment_is_open(axis, street, lane.forward * s)
                    if open_here and min((abs(s - m) for m in own), default=99.0) > 13.0:
                        cars.append(Car(lane, s, make_body(rng, False), False))
                    s += 13.0 + rng.exponential(density)
    return cars
