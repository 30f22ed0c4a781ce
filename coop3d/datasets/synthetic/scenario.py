"""One scenario: a town, its light, its traffic; and one instant of it that can be traced and photographed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import ArrayLike, NDArray

from . import mesh, shading
from .bvh import FAR, Hierarchy, build_bvh, trace_rays
from .config import SPLITS
from .domain import DOMAINS, Domain
from .lighting import Light, ShadowMap
from .spacing import even_draw, vehicle_shares, wanted_distances
from .town import Town, TownPlan, make_town
from .traffic import FIRST_TRAFFIC_ID, Driver, drive_poses, ground_pose, make_traffic, make_traffic_at
from .vehicles import Body

_NOBODY = -2  # an id no triangle has


class Hits(NamedTuple):
    """Answers of :meth:`Scenario.trace` for N rays."""

    t: NDArray[np.float64]  # [N] in lengths of the given direction (metres if unit); inf = nothing
    owner: NDArray[np.int64]  # [N] id of the vehicle hit, -1 = the town or nothing
    triangle: NDArray[np.int64]  # [N] number of the triangle, -1 = nothing


@dataclass(frozen=True)
class VehicleState:
    """A vehicle at one instant. World and vehicle frames: UE axes, metres."""

    id: int
    T_world_vehicle: NDArray[np.float64]  # [4, 4]; the vehicle frame's origin is on the ground
    body: Body
    speed_kmh: float


class Scenario:
    """A town with traffic. Made by :func:`build_scenario`; the same arguments give the same scenario.

    Attributes:
        town, light: what stands there and how it is lit.
        agents: ids of the connected vehicles.
        frames: number of instants.
        first_tick: simulator tick of the first instant; each further instant is two ticks later.
    """

    def __init__(
        self, town: Town, light: Light, drivers: list[Driver], agents: list[int], frames: int, first_tick: int
    ):
        self.town, self.light, self.agents, self.frames, self.first_tick = (
            town,
            light,
            agents,
            frames,
            first_tick,
        )
        self.light_numbers = shading.pack_light(light)
        self._drivers = {d.id: d for d in drivers}
        self._poses = {d.id: drive_poses(town.layout, d) for d in drivers}  # [F + 1, 4, 4] each
        self._parked = {
            c.id: VehicleState(
                c.id, ground_pose(town.layout, *c.street, c.across, c.along, c.forward), c.body, 0.0
            )
            for c in town.parked
        }
        cars = [v.body.mesh.transformed(v.T_world_vehicle).owned_by(v.id) for v in self._parked.values()]
        static = mesh.concatenate([town.mesh, *cars])
        self.static = build_bvh(static.triangles)
        static = static.reordered(self.static.order)
        places = np.stack([self._poses[i][frames // 2, :3, 3] for i in agents])
        self.shade_origin: NDArray[np.float64] = np.round(places.mean(axis=0))
        # The moving part has the same size at every instant: reserve its place behind the static part once.
        n_static, n_moving = len(static), sum(len(d.body.mesh) for d in drivers)
        surface = shading.make_surface(static, self.shade_origin)
        self._surface = shading.Surface(*(_extended(values, n_moving) for values in surface))
        self._owner = _extended(static.owner, n_moving)
        self._n_static = n_static
        self._current: Instant | None = None

    @cached_property
    def shadows(self) -> ShadowMap:
        """Shadows of what never moves; computed for the first photograph, since a layout needs none."""
        return ShadowMap(self.static.triangles, self.shade_origin[:2], self.light.sun_direction)

    @property
    def domain(self) -> Domain:
        """What kind of world it is, and with which rig it is measured."""
        return self.town.domain

    @property
    def ticks(self) -> list[int]:
        """Frame numbers, every second tick."""
        return [self.first_tick + 2 * k for k in range(self.frames)]

    def vehicles(self, frame: int) -> dict[int, VehicleState]:
        """All vehicles, parked and moving, at instant ``frame`` (0 .. frames - 1)."""
        out = dict(self._parked)
        for i, d in self._drivers.items():
            out[i] = VehicleState(i, self._poses[i][frame], d.body, float(d.speed[frame] * 3.6))
        return out

    def plan(self, agent: int, frame: int) -> list[list[float]]:
        """Where a connected vehicle drives next: ``[x, y, speed km/h]`` for the coming frames, at most 20."""
        places = self._poses[agent][frame : frame + 20, :2, 3].tolist()
        speeds = (3.6 * self._drivers[agent].speed[frame : frame + 20]).tolist()
        return [[x, y, v] for (x, y), v in zip(places, speeds, strict=True)]

    def instant(self, frame: int) -> Instant:
        """The world at instant ``frame``. Asking for another one invalidates the last."""
        if not 0 <= frame < self.frames:
            raise ValueError(f"frame is {frame}, expected 0 to {self.frames - 1}")
        if self._current is None or self._current.frame != frame:
            self._current = Instant(self, frame)
        return self._current

    def release(self) -> None:
        """Release the last instant.

        It and the scenario refer to each other: without this both wait for the cycle collector, which counts objects,
        not the hundred megabytes of arrays in a few of them.
        """
        self._current = None

    def trace(
        self, origins: ArrayLike, directions: ArrayLike, frame: int = 0, exclude: int | None = None
    ) -> Hits:
        """Intersect arbitrary rays with the world, independently of the renderer's packets.

        Args:
            origins: [N, 3] world, UE axes, metres (or [3], shared).
            directions: [N, 3] world; ``t`` counts in their lengths.
            frame: instant.
            exclude: id of a vehicle to leave out, as the one that carries the sensor.
        """
        return self.instant(frame).trace(origins, directions, exclude)


class Instant:
    """A :class:`Scenario` at one instant, ready for rays."""

    def __init__(self, scenario: Scenario, frame: int):
        self.scenario, self.frame = scenario, frame
        self.vehicles = scenario.vehicles(frame)
        self._movers = [
            v.body.mesh.transformed(v.T_world_vehicle).owned_by(v.id)
            for v in self.vehicles.values()
            if v.id not in scenario._parked
        ]
        moving = mesh.concatenate(self._movers)
        self.moving = build_bvh(moving.triangles)
        moving = moving.reordered(self.moving.order)
        self.surface, self.owner = scenario._surface, scenario._owner
        surface = shading.make_surface(moving, scenario.shade_origin)
        for name in surface._fields:
            getattr(self.surface, name)[scenario._n_static :] = getattr(surface, name)
        self.owner[scenario._n_static :] = moving.owner

    @cached_property
    def shadow_height(self) -> NDArray[np.float32]:
        """[H, W] what casts shadows at this instant, the moving vehicles included; see :class:`ShadowMap`."""
        return self.scenario.shadows.with_movers([m.triangles for m in self._movers])

    def hierarchies(self) -> tuple[Hierarchy, Hierarchy]:
        """What moves, then what does not: vehicles are near, and nothing is searched behind what is hit already."""
        n = self.scenario._n_static
        return Hierarchy(self.moving, self.owner[n:], n), Hierarchy(self.scenario.static, self.owner[:n], 0)

    def triangles(self) -> NDArray[np.float64]:
        """[N, 3, 3] every triangle of this instant, numbered as in :class:`Hits`."""
        return np.concatenate([self.scenario.static.triangles, self.moving.triangles])

    def trace(self, origins: ArrayLike, directions: ArrayLike, exclude: int | None = None) -> Hits:
        """See :meth:`Scenario.trace`."""
        d = np.ascontiguousarray(directions, np.float64).reshape(-1, 3)
        o = np.ascontiguousarray(np.broadcast_to(np.asarray(origins, np.float64), d.shape))
        t, triangle = np.full(len(d), FAR), np.full(len(d), -1, np.int64)
        skip = _NOBODY if exclude is None else exclude
        for hierarchy in self.hierarchies():
            trace_rays(o, d, hierarchy, skip, t, triangle)
        hit = triangle >= 0
        return Hits(np.where(hit, t, np.inf), np.where(hit, self.owner[triangle], mesh.NO_OWNER), triangle)


def _extended(values: NDArray, more: int) -> NDArray:
    return np.concatenate([values, np.zeros((more, *values.shape[1:]), values.dtype)])


def _rng(*key: int) -> Generator:
    return default_rng(np.random.SeedSequence(key))


class ScenarioPlan(NamedTuple):
    """What is drawn of a scenario before its town and its traffic."""

    wanted_m: list[float] | None  # distances of connected vehicles; None: as the streets give them
    n: int  # connected vehicles
    first_tick: int

    @property
    def agents(self) -> list[int]:
        """Ids of the connected vehicles."""
        return [FIRST_TRAFFIC_ID + k for k in range(self.n)]

    def tick(self, frame: int) -> int:
        """Number of a frame: simulator ticks, every second one is kept."""
        return self.first_tick + 2 * frame


def plan_scenario(
    seed: int, split: str, index: int, vehicles: tuple[int, int], distances: str = "as_is"
) -> ScenarioPlan:
    """Number and wanted distances of the connected vehicles of a scenario; see :func:`build_scenario`."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {list(SPLITS)}")
    counts = np.arange(vehicles[0], vehicles[1] + 1)
    rng = _rng(seed, SPLITS.index(split), index, 1)
    n = int(rng.choice(counts, p=vehicle_shares(counts)))
    first_tick = int(rng.integers(60, 900))
    if distances == "as_is":
        return ScenarioPlan(None, n, first_tick)
    nearest, many = even_draw(_rng(seed, SPLITS.index(split), 6).uniform(size=2), index)
    n = int(counts[np.searchsorted(np.cumsum(vehicle_shares(counts))[:-1], many, side="right")])
    return ScenarioPlan(wanted_distances(rng, float(nearest), n), n, first_tick)


def drive(
    seed: int, split: str, index: int, plan: ScenarioPlan, town: Town | TownPlan, frames: int
) -> tuple[list[Driver], list[int]]:
    """Traffic of a scenario in its town: drivers, and ids of the connected ones."""
    rng = _rng(seed, SPLITS.index(split), index, 3)
    if plan.wanted_m is None:
        return make_traffic(rng, town, plan.n, frames)
    return make_traffic_at(rng, town, plan.wanted_m, frames)


def build_scenario(
    seed: int = 0,
    split: str = "train",
    index: int = 0,
    *,
    frames: int = 10,
    vehicles: tuple[int, int] = (2, 4),
    distances: str = "as_is",
    domain: str = "town",
) -> Scenario:
    """Scenario ``index`` of ``split``, in memory.

    Args:
        seed: the data set's seed.
        split: one of ``SPLITS``; every (split, index) has a town of its own.
        index: which scenario of the split.
        frames: number of instants, 0.1 s apart.
        vehicles: fewest and most connected vehicles.
        distances: ``as_is`` or ``opv2v``, as in :class:`SyntheticConfig`.
        domain: kind of world, as there.
    """
    plan = plan_scenario(seed, split, index, vehicles, distances)
    key = (seed, SPLITS.index(split), index)
    world = DOMAINS[domain]
    town = make_town(_rng(*key, 2), world)
    drivers, agents = drive(seed, split, index, plan, town, frames)
    assert agents == plan.agents
    return Scenario(town, world.light(_rng(*key, 4)), drivers, agents, frames, plan.first_tick)
