"""What sampling needs to know of a vehicle at an instant, wherever its views come from: files or a cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from coop3d.types import SampleKey


class VehicleEntry(Protocol):
    """One vehicle at one instant."""

    @property
    def key(self) -> SampleKey: ...


EntryT = TypeVar("EntryT", bound=VehicleEntry)
EntryT_co = TypeVar("EntryT_co", bound=VehicleEntry, covariant=True)


@dataclass(frozen=True)
class Instant(Generic[EntryT_co]):
    """All vehicles recorded at one tick of one scenario, ordered by numeric id."""

    scenario: str
    frame: str
    entries: tuple[EntryT_co, ...]


def group_instants(entries: Iterable[EntryT]) -> list[Instant[EntryT]]:
    """Entries grouped by (scenario, tick), sorted. A vehicle without that tick is simply not in the group."""
    groups: dict[tuple[str, str], list[EntryT]] = {}
    for entry in entries:
        groups.setdefault((entry.key.scenario, entry.key.frame), []).append(entry)
    return [Instant(s, f, tuple(at_once)) for (s, f), at_once in sorted(groups.items())]


class FrameIndex(Protocol[EntryT_co]):
    """The vehicles of one split and where they stood. `OPV2VIndex` is one, the index of a cache another."""

    split: str

    def __len__(self) -> int: ...

    @property
    def frames(self) -> Sequence[EntryT_co]: ...

    @property
    def instants(self) -> Sequence[Instant[EntryT_co]]:
        """Groups by (scenario, tick), sorted."""
        ...

    @property
    def T_world_rig(self) -> dict[SampleKey, NDArray[np.float64]]:
        """[4, 4] pose of every frame that has one."""
        ...
