"""Choosing which frames a picture script shows."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from coop3d.types import SampleKey


class Keyed(Protocol):
    """Anything that says which vehicle at which instant it is."""

    @property
    def key(self) -> SampleKey: ...


EntryT = TypeVar("EntryT", bound=Keyed)


def add_frame_arguments(parser: ArgumentParser) -> None:
    """Options by which every script names frames of a dataset."""
    parser.add_argument("--images-root", type=Path, required=True, help="folder that holds the splits")
    parser.add_argument("--depth-root", type=Path, help="folder of *_depth.npy files, if there are any")
    parser.add_argument("--split", default="train", help="sub-folder of the roots (default: %(default)s)")
    parser.add_argument("--scenario", help="only this scenario")
    parser.add_argument("--agent", help="only this vehicle")
    parser.add_argument("--frame", help="only this frame, e.g. 000069")
    parser.add_argument("--index", type=int, help="the N-th frame of the split instead of names")


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
