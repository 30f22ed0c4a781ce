"""Which frames of a split a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from coop3d.types import SampleKey


class Keyed(Protocol):
    """Anything that says which vehicle at which instant it is."""

    @property
    def key(self) -> SampleKey: ...


EntryT = TypeVar("EntryT", bound=Keyed)


def select_entries(
    entries: Sequence[EntryT],
    scenario: str | None = None,
    agent: str | None = None,
    frame: str | None = None,
    index: int | None = None,
    at_most: int = 1,
) -> list[EntryT]:
    """Entries that match every name given, thinned evenly to ``at_most``; or the one at ``index``.

    Raises:
        ValueError: if nothing matches (says what there is), or ``index`` is outside.
    """
    if index is not None:
        if not 0 <= index < len(entries):
            raise ValueError(f"index {index} is outside the {len(entries)} frames of this split")
        return [entries[index]]
    wanted = SampleKey(scenario or "", agent or "", frame or "")
    found = [e for e in entries if all(w in ("", h) for w, h in zip(wanted, e.key, strict=True))]
    if not found:
        examples = ", ".join(str(e.key) for e in entries[:3])
        raise ValueError(
            f"no frame matches scenario={scenario or 'any'}, agent={agent or 'any'}, frame={frame or 'any'}; "
            f"the split has {len(entries)} frames, e.g. {examples}"
        )
    count = min(at_most, len(found))
    return [found[(k * len(found)) // count] for k in range(count)]
