"""Who drives where: lanes, car following, red lights, and the pose of a car on sloping ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .layout import STOP_GAP_M, STOP_WIDTH_M, Layout
from .placing import (
    Car,
    Lane,
    out_of_crossings,
    place_background,
    place_connected,
    place_connected_at,
    plan_xy,
)
from .spacing import nearest_pair_m
from .town import Town, TownPlan
from .vehicles import Body

FIRST_TRAFFIC_ID = 500
FRAME_S = 0.1  # OPV2V keeps every second tick of a 20 Hz simulation
_STEP_S = 0.05
_MIN_GAP_M = 3.0
_DRAWS = 12  # of places, where distances are wanted
_MOST_TRAFFIC = 48  # background cars, those nearest to the first connected one


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


def make_traffic(
    rng: Generator, town: Town | TownPlan, n_connected: int, frames: int
) -> tuple[list[Driver], list[int]]:
    """Draw connected vehicles and background traffic and drive them for ``frames`` frames.

    Returns the drivers and the ids of the connected ones.
    """
    return _drive_all(rng, town, place_connected(rng, town, n_connected), frames)


def make_traffic_at(
    rng: Generator, town: Town | TownPlan, wanted_m: Sequence[float], frames: int
) -> tuple[list[Driver], list[int]]:
    """:func:`make_traffic` with one connected vehicle more than wanted distances, that far from those before it.

    Queues before red lights move cars after they were placed, so places are drawn again until the two nearest
    vehicles are as far apart as wanted at the middle of the scenario; the best of several draws is kept.

    Args:
        wanted_m: metres from each further vehicle to the nearest before it; the least first.
    """
    best: tuple[float, list[Driver], list[int]] | None = None
    for _ in range(_DRAWS):
        drivers, agents = _drive_all(rng, town, place_connected_at(rng, town, wanted_m), frames)
        if not wanted_m:
            return drivers, agents
        middle = [drive_poses(town.layout, d)[frames // 2, :3, 3] for d in drivers if d.id in agents]
        error = abs(float(nearest_pair_m(np.stack(middle))) - wanted_m[0])
        if best is None or error < best[0]:
            best = (error, drivers, agents)
        if error < max(0.5, 0.02 * wanted_m[0]):
            break
    assert best is not None
    return best[1], best[2]


def _drive_all(
    rng: Generator, town: Town | TownPlan, connected: list[Car], frames: int
) -> tuple[list[Driver], list[int]]:
    """Background traffic around placed vehicles, and everybody's way."""
    layout = town.layout
    others = place_background(rng, layout, connected)
    here = plan_xy(layout, connected[0].lane, connected[0].mid)
    others.sort(key=lambda c: float(np.hypot(*(plan_xy(layout, c.lane, c.mid) - here))))
    cars = connected + others[:_MOST_TRAFFIC]
    lanes: dict[Lane, list[Car]] = {}
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
    return drivers, [d.id for d in drivers[: len(connected)]]


def _drive(rng: Generator, town: Town | TownPlan, lane: Lane, queue: list[Car], frames: int):
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


def _stop_points(town: Town | TownPlan, lane: Lane) -> NDArray[np.float64]:
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


def _red_spacing(town: Town | TownPlan, lane: Lane, s: NDArray[np.float64], half) -> NDArray[np.float64]:
    """Push cars that face red out of the crossings, keeping their order and room between bumpers."""
    out = np.empty_like(s)
    for i in range(len(s)):
        here = out_of_crossings(town, lane, s[i])
        if i > 0:
            here = min(here, out[i - 1] - half[i - 1] - half[i] - _MIN_GAP_M)
            here = out_of_crossings(town, lane, here)
        out[i] = here
    return out
