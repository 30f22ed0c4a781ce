"""Which vehicles of an instant make one sample, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.entries import EntryT, Instant
from coop3d.types import SampleKey

PAIR_POLICIES = ("first", "nearest", "random")


@dataclass(frozen=True)
class VehicleSampling:
    """Reference and partners of a cooperative sample.

    Attributes:
        vehicles: number of vehicles, or (min, max) for a variable number.
        reference: ``first`` (the lowest id that has enough partners), ``random``, or an agent id.
        pair_policy: which partners join: ``first`` ids, ``nearest`` to the reference, or ``random``.
        max_distance_m: partners must be within this distance of the reference; None: no limit.
        shuffle_others: random order of the non-reference vehicles (their order must not matter to a model).
    """

    vehicles: int | Sequence[int] = 2
    reference: str = "first"
    pair_policy: str = "nearest"
    max_distance_m: float | None = 60.0
    shuffle_others: bool = False

    def __post_init__(self) -> None:
        # YAML and command lines give ids as numbers.
        object.__setattr__(self, "reference", str(self.reference))
        low, high = self.limits
        if not 1 <= low <= high:
            raise ValueError(
                f"vehicles is {self.vehicles!r}, expected n >= 1 or [min, max] with 1 <= min <= max"
            )
        if self.pair_policy not in PAIR_POLICIES:
            raise ValueError(f"pair_policy is {self.pair_policy!r}, expected one of {PAIR_POLICIES}")
        if self.max_distance_m is not None and self.max_distance_m <= 0:
            raise ValueError(f"max_distance_m is {self.max_distance_m}, expected a positive number or null")

    @property
    def limits(self) -> tuple[int, int]:
        """(min, max) number of vehicles."""
        if isinstance(self.vehicles, int):
            return self.vehicles, self.vehicles
        low, high = self.vehicles
        return int(low), int(high)

    def candidates(
        self, instant: Instant[EntryT], T_world_rig: dict[SampleKey, NDArray[np.float64]]
    ) -> list[tuple[EntryT, ...]]:
        """Possible (reference, partners by increasing distance) groups; empty when the instant is unusable."""
        entries = [e for e in instant.entries if e.key in T_world_rig]
        references = [e for e in entries if not e.key.is_roadside_unit]
        if self.reference not in ("first", "random"):
            references = [e for e in references if e.key.agent == self.reference]
        groups = []
        for reference in references:
            group = (reference, *self._partners(reference, entries, T_world_rig))
            if len(group) >= self.limits[0]:
                groups.append(group)
        return groups[:1] if self.reference == "first" else groups

    def _partners(
        self,
        reference: EntryT,
        entries: list[EntryT],
        T_world_rig: dict[SampleKey, NDArray[np.float64]],
    ) -> list[EntryT]:
        centre = T_world_rig[reference.key][:3, 3]
        near = []
        for entry in entries:
            distance = float(np.linalg.norm(T_world_rig[entry.key][:3, 3] - centre))
            if entry is not reference and (self.max_distance_m is None or distance <= self.max_distance_m):
                near.append((distance, entry))
        if self.pair_policy == "nearest":
            near.sort(key=lambda pair: pair[0])
        return [entry for _, entry in near]

    def draw(self, groups: Sequence[tuple[EntryT, ...]], rng: np.random.Generator) -> tuple[EntryT, ...]:
        """One sample's vehicles, reference first, from the groups of `candidates`."""
        group = groups[int(rng.integers(len(groups)))] if self.reference == "random" else groups[0]
        low, high = self.limits
        count = int(rng.integers(low, min(high, len(group)) + 1))
        others = list(group[1:])
        if self.pair_policy == "random":
            others = [others[i] for i in rng.permutation(len(others))]
        others = others[: count - 1]
        if self.shuffle_others:
            others = [others[i] for i in rng.permutation(len(others))]
        return (group[0], *others)


@dataclass(frozen=True)
class AsListed(VehicleSampling):
    """Every sample is one given group, in its order."""

    def draw(self, groups: Sequence[tuple[EntryT, ...]], rng: np.random.Generator) -> tuple[EntryT, ...]:
        """The only group there is."""
        return groups[0]
