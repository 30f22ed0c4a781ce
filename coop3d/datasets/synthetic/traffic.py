"""Who drives where: lanes, car following, red lights, and the pose of a car on sloping ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .layout import LANE_M, OUTSKIRTS_M, STOP_GAP_M, STOP_WIDTH_M, Layout
from .town import Town
from .vehicles import Body, make_body

FIRST_TRAFFIC_ID = 500
FRAME_S = 0.1  # OPV2V keeps every second tick of a 20 Hz simulation
_STEP_S = 0.05
_MIN_GAP_M = 3.0
_MOST_TRAFFIC = 48  # background cars, those nearest to the first connected one


@dataclass(frozen=True)
class Lane:
    axis: int
    street: int
    forward: int  # +1: towards growing ``along``
    number: int  # 0 next to the centre line

    @property
    def across(self) -> float:
        return self.forward * (self.number + 0.5) * LANE_M


@dataclass(frozen=True)
class Driver:
    """A moving vehicle. ``travelled``: distance along its lane (``forward * along``) per frame, [F + 1] m."""

    id: int
    body: Body
    lane: Lane
    travelled: NDArray[np.float64]
    speed: NDArray[np.float64]  # [F + 1] m/s
    sway: NDArray[np.float64]  # [3] small constant roll, pitch (rad) and sideways offset (m)


def ground_pose(
    layout: Layout, axis, street, across, along, forward, sway=(0.0, 0.0, 0.0)
) -> NDArray[np.float64]:
    """[..., 4, 4] ``T_world_vehicle`` (UE axes) of a car on the terrain at a street's (across, along [...])."""
    along = np.asarray(along, np.float64)
    ends = layout.to_world(layout.street_point(axis, street, across + forward * sway[2],
                                               along[..., None] + forward * np.array([0.0, 0.5, -0.5])))  # fmt: skip
    xy, ahead = ends[..., 0, :], ends[..., 1, :] - ends[..., 2, :]
    fwd = ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)
    right = np.stack([-fwd[..., 1], fwd[..., 0]], axis=-1)
    # The wheels decide: slope over the wheelbase and over the track.
    wheels = np.stack([xy + 1.4 * fwd, xy - 1.4 * fwd, xy + 0.8 * right, xy - 0.8 * right])
    zf, zb, zr, zl = layout.height(wheels)
    x = np.concatenate([fwd, ((zf - zb) / 2.8 + sway[1])[..., None]], axis=-1)
    y = np.concatenate([right, ((zr - zl) / 1.6 + sway[0])[..., None]], axis=-1)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    y -= x * (x * y).sum(axis=-1, keepdims=True)
    y /= np.linalg.norm(y, axis=-1, keepdims=True)
    T = np.zeros((*along.shape, 4, 4))
    T[..., :3, 0], T[..., :3, 1] = x, y
    T[..., :3, 2] = np.cross(x, y)  # x cross y = z as coordinates, in either handedness
    T[..., :2, 3], T[..., 2, 3], T[..., 3, 3] = xy, 0.25 * (zf + zb + zr + zl) + 0.01, 1.0
    return T


def drive_poses(layout: Layout, driver: Driver) -> NDArray[np.float64]:
    """[F + 1, 4, 4] ``T_world_vehicle`` of a moving vehicle at every frame."""
    lane = driver.lane
    along = lane.forward * driver.travelled
    return ground_pose(layout, lane.axis, lane.street, lane.across, along, lane.forward, driver.sway)


@dataclass
class _Car:
    lane: Lane
    mid: float  # forward * along at the middle of the scenario, m
    body: Body
    connected: bool


def make_traffic(rng: Generator, town: Town, n_connected: int, frames: int) -> tuple[list[Driver], list[int]]:
    """Draw connected vehicles and background traffic and drive them for ``frames`` frames.

    Returns the drivers and the ids of the connected ones.
    """
    layout = town.layout
    connected = _place_connected(rng, town, n_connected)
    others = _place_background(rng, layout, connected)
    here = _plan_xy(layout, connected[0].lane, connected[0].mid)
    others.sort(key=lambda c: float(np.hypot(*(_plan_xy(layout, c.lane, c.mid) - here))))
    cars = connected + others[:_MOST_TRAFFIC]
    lanes: dict[Lane, list[_Car]] = {}
    for car in cars:
        lanes.setdefault(car.lane, []).append(car)
    drivers: list[Driver] = []
    number = {id(car): k for k, car in enumerate(cars)}
    for lane in sorted(lanes, key=lambda q: (q.axis, q.street, q.forward, q.number)):
        queue = sorted(lanes[lane], key=lambda c: -c.mid)
        travelled, speed = _drive(rng, town, lane, queue, frames)
        for car, s, v in zip(queue, travelled, speed, strict=True):
            sway = rng.normal(size=3) * [0.004, 0.004, 0.15]
            drivers.append(Driver(FIRST_TRAFFIC_ID + number[id(car)], car.body, lane, s, v, sway))
    drivers.sort(key=lambda d: d.id)
    return drivers, [d.id for d in drivers[:n_connected]]


def _lanes_of(layout: Layout, axis: int, street: int) -> list[Lane]:
    n = layout.axes[axis][street].lanes
    return [Lane(axis, street, f, k) for f in (-1, 1) for k in range(n)]


def _plan_xy(layout: Layout, lane: Lane, s: float) -> NDArray[np.float64]:
    return layout.to_world(layout.street_point(lane.axis, lane.street, lane.across, lane.forward * s))


def _place_connected(rng: Generator, town: Town, n: int) -> list[_Car]:
    """The first car near the town's centre, each further one related to a car already there.

    Related: following or leading (35 %), oncoming (25 %), on a crossing street (40 %), 6 to 60 m away.
    """
    layout = town.layout
    axis = int(rng.integers(2))
    street = int(rng.integers(1, 3))
    lanes = _lanes_of(layout, axis, street)
    first = lanes[rng.integers(len(lanes))]
    cars = [_Car(first, float(rng.uniform(-45, 45)), make_body(rng, True), True)]
    wish = 1.0
    while len(cars) < n:
        anchor = cars[rng.integers(len(cars))]
        here = _plan_xy(layout, anchor.lane, anchor.mid)
        kind = rng.uniform()
        if kind < 0.6:
            lanes = [q for q in _lanes_of(layout, anchor.lane.axis, anchor.lane.street)
                     if (q.forward == anchor.lane.forward) == (kind < 0.35)]  # fmt: skip
            lane = lanes[rng.integers(len(lanes))]
            along = anchor.lane.forward * anchor.mid + rng.choice([-1, 1]) * rng.gamma(3.0, 7.5) * wish
        else:
            other = 1 - anchor.lane.axis
            centers = np.array([s.center for s in layout.axes[other]])
            cross = int(np.abs(centers[1:3] - anchor.lane.forward * anchor.mid).argmin()) + 1
            lanes = _lanes_of(layout, other, cross)
            lane = lanes[rng.integers(len(lanes))]
            crossing = layout.axes[anchor.lane.axis][anchor.lane.street].center
            along = crossing + rng.choice([-1, 1]) * rng.gamma(3.0, 8.0) * wish
        mid = _out_of_crossings(town, lane, lane.forward * along)
        at = _plan_xy(layout, lane, mid)
        dist = [np.hypot(*(at - _plan_xy(layout, c.lane, c.mid))) for c in cars]
        same = [abs(mid - c.mid) for c in cars if c.lane == lane]
        if min(dist) > 5.0 and np.hypot(*(at - here)) < 60.0 and min(same, default=99.0) > 9.0:
            cars.append(_Car(lane, mid, make_body(rng, True), True))
        wish = min(wish * 1.03, 3.0)
    return cars


def _out_of_crossings(town: Town, lane: Lane, s: float) -> float:
    """Move a car that waits for red but would stand inside a crossing back to its stop line."""
    if lane.axis == town.green_axis:
        return s
    for other in town.layout.axes[1 - lane.axis]:
        rel = s - lane.forward * other.center
        if -(other.half_total + 5.0) < rel < other.half_total + 4.0:
            return s - rel - (other.half_total + 5.0)
    return s


def _place_background(rng: Generator, layout: Layout, taken: list[_Car]) -> list[_Car]:
    """Other cars on every open lane, with room between them."""
    cars: list[_Car] = []
    for axis in range(2):
        for street in range(len(layout.axes[axis])):
            density = rng.uniform(15.0, 70.0)
            for lane in _lanes_of(layout, axis, street):
                own = [c.mid for c in taken if c.lane == lane]
                reach = layout.edge - OUTSKIRTS_M + 25.0
                s = -reach + rng.uniform(0, density)
                while s < reach:
                    open_here = layout.segment_is_open(axis, street, lane.forward * s)
                    if open_here and min((abs(s - m) for m in own), default=99.0) > 13.0:
                        cars.append(_Car(lane, s, make_body(rng, False), False))
                    s += 13.0 + rng.exponential(density)
    return cars


def _drive(rng: Generator, town: Town, lane: Lane, queue: list[_Car], frames: int):
    """Intelligent-driver model along one lane, leaders first. Returns [cars, F + 1] distances and speeds."""
    n, steps = len(queue), round(FRAME_S / _STEP_S)
    green = lane.axis == town.green_axis
    wanted = rng.uniform(7.0, 13.0)
    half = np.array([c.body.extent[0] for c in queue])
    s = np.array([c.mid for c in queue])
    s = _red_spacing(town, lane, s, half) if not green else s
    v = np.full(n, wanted)
    if green:
        s = s - 0.5 * frames * FRAME_S * wanted  # so that the drawn places are reached half-way
    stops = _stop_points(town, lane) if not green else np.zeros(0)
    end = town.layout.edge - 12.0
    for i in range(n):  # nobody starts faster than he can stop
        v[i] = min(v[i], np.sqrt(2 * 2.0 * max(_free_road(i, s, half, stops, end, None), 0.0)))
    out_s, out_v = np.empty((n, frames + 1)), np.empty((n, frames + 1))
    for f in range(frames + 1):
        out_s[:, f], out_v[:, f] = s, v
        for _ in range(steps):
            acc = np.empty(n)
            for i in range(n):
                gap = max(_free_road(i, s, half, stops, end, v), 0.05)
                lead = v[i - 1] if i > 0 and gap == s[i - 1] - s[i] - half[i - 1] - half[i] else 0.0
                want = 2.0 + max(0.0, v[i] * 1.0 + v[i] * (v[i] - lead) / (2 * np.sqrt(1.5 * 3.0)))
                acc[i] = 1.5 * (1 - (v[i] / wanted) ** 4 - (want / gap) ** 2)
            new = np.clip(v + np.clip(acc, -9.0, 2.0) * _STEP_S, 0.0, None)
            s = s + 0.5 * (v + new) * _STEP_S
            v = new
    return out_s, out_v


def _stop_points(town: Town, lane: Lane) -> NDArray[np.float64]:
    """Where red light stops the front bumper, as forward * along."""
    gap = STOP_GAP_M + STOP_WIDTH_M + 0.3
    return np.array([lane.forward * o.center - o.half_total - gap for o in town.layout.axes[1 - lane.axis]])


def _free_road(i, s, half, stops, end, v) -> float:
    """Distance from bumper i to the next obstacle: a leader, a red stop line ahead, the end of the map."""
    front = s[i] + half[i]
    free = end - front
    ahead = stops[stops > front - 0.4] if len(stops) else stops
    if len(ahead):
        free = min(free, float(ahead.min()) - front + 2.0)  # the model keeps 2 m to any obstacle
    if i > 0:
        free = min(free, s[i - 1] - half[i - 1] - front)
    return free


def _red_spacing(town: Town, lane: Lane, s: NDArray[np.float64], half) -> NDArray[np.float64]:
    """Push cars that face red out of the crossings, keeping their order and room between bumpers."""
    out = np.empty_like(s)
    for i in range(len(s)):
        here = _out_of_crossings(town, lane, s[i])
        if i > 0:
            here = min(here, out[i - 1] - half[i - 1] - half[i] - _MIN_GAP_M)
            here = _out_of_crossings(town, lane, here)
        out[i] = here
    return out
