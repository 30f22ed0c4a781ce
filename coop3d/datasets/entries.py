"""What sampling needs to know of a vehicle at an instant, wherever its views come from: files or a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from coop3d.types import SampleKey


class VehicleEntry(Protocol):
    """One vehicle at one instant."""

    @property
    def key(self) -> SampleKey: ...

    @property
    def is_roadside_unit(self) -> bool:
        """Road-side units can never be the reference."""
        ...


EntryT = TypeVar("EntryT", bound=VehicleEntry)
EntryT_co = TypeVar("EntryT_co", bound=VehicleEntry, covariant=True)


class VehicleGroup(Protocol[EntryT_co]):
    """All vehicles at one tick of one scenario, ordered by numeric id."""

    @property
    def scenario(self) -> str: ...

    @property
    def frame(self) -> str: ...

    @property
    def entries(self) -> Sequence[EntryT_co]: ...


class FrameIndex(Protocol[EntryT_co]):
    """The vehicles of one split and where they stood. `OPV2VIndex` is one, the index of a cache another."""

    split: str

    def __len__(self) -> int: ...

    @property
    def frames(self) -> Sequence[EntryT_co]: ...

    @property
    def instants(self) -> Sequence[VehicleGroup[EntryT_co]]:
        """Groups by (scenario, tick), sorted."""
        ...

    @property
    def T_world_rig(self) -> dict[SampleKey, NDArray[np.float64]]:
        """[4, 4] pose of every frame that has one."""
        ...
