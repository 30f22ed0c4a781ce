"""Append-only record of finished samples: an evaluation that was killed goes on where it stopped.

One file per process; one line per entrant and sample, written whole. Numbers are kept as text that reads back to the
same bits, so a resumed evaluation ends with the files an uninterrupted one would have written.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from coop3d.environment import git_revision
from coop3d.evaluation.rows import SampleRow, ViewRow, flatten, unflatten
from coop3d.files import write_text

log = logging.getLogger(__name__)

RowT = TypeVar("RowT", ViewRow, SampleRow)
FORMAT = 1
ARITHMETIC = "arithmetic"  # setting: number type of the forward pass, and kind of device
WRITTEN = (
    "per_frame*.csv", "per_sample*.csv", "trajectory*.csv", "summary*.json", "metrics.json", "table.txt",
    "bad_samples.txt", "config.yaml", "provenance.yaml", "contract.json", "report.html", "plots", "scenes", "journal",
    "robustness*",
)  # fmt: skip
EARLIER_LAYOUT = ("table.txt", "provenance.yaml")  # an evaluation without a journal has both


class FolderError(ValueError):
    """The output folder holds something that must not be mixed with, or lost to, this evaluation."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One entrant's scores on one sample."""

    entrant: str
    sample: str  # its vehicles, as a contract's sample prints itself
    rows: tuple[ViewRow, ...]
    samples: tuple[SampleRow, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0  # of prediction, shared equally by the samples of a batch


class Journal:
    """The records of all processes, and this process's file.

    Args:
        folder: of the journal.
        rank: of this process.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self.rank = folder, rank
        self._file: TextIO | None = None
        self._lock = threading.Lock()

    def read(self) -> dict[tuple[str, str], Scored]:
        """Finished work of earlier calls, whatever the number of processes then: (entrant, sample) to scores."""
        found: dict[tuple[str, str], Scored] = {}
        for path in sorted(self.folder.glob("rows.*.jsonl")):
            for record in _records(path):
                found.setdefault((record.entrant, record.sample), record)
        return found

    def append(self, record: Scored) -> None:
        """Add one record; it survives the end of this process, however that comes about. Any thread may call it."""
        content = {
            "entrant": record.entrant,
            "sample": record.sample,
            "views": _as_text(record.rows),
            "samples": _as_text(record.samples),
            "notes": list(record.notes),
            "seconds": record.seconds,
        }
        line = json.dumps(content, separators=(",", ":")) + "\n"
        with self._lock:
            if self._file is None:
                self._file = self._open()
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> TextIO:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rows.{self.rank}.jsonl"
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(path, whole)  # the line that was being written when the process was killed
        return path.open("a", encoding="utf-8")


def _as_text(rows: Sequence[ViewRow] | Sequence[SampleRow]) -> dict[str, Any]:
    """Columns once, then values as text."""
    flat = [flatten(row) for row in rows]
    return {"columns": list(flat[0]) if flat else [], "values": [[str(v) for v in f.values()] for f in flat]}


def _from_text(kind: type[RowT], table: Mapping[str, Any]) -> tuple[RowT, ...]:
    return tuple(
        unflatten(kind, dict(zip(table["columns"], values, strict=True))) for values in table["values"]
    )


def _records(path: Path) -> Iterator[Scored]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return  # torn: that sample is done again
            try:
                content = json.loads(line)
                yield Scored(
                    entrant=content["entrant"],
                    sample=content["sample"],
                    rows=_from_text(ViewRow, content["views"]),
                    samples=_from_text(SampleRow, content["samples"]),
                    notes=tuple(content["notes"]),
                    seconds=content["seconds"],
                )
            except (json.JSONDecodeError, KeyError, ValueError, TypeError) as error:
                raise FolderError(
                    f"{path}:{number}: is no record of this code ({type(error).__name__}: {error}). Start afresh "
                    "with restart=true (what is there is moved aside), or use another output_dir."
                ) from error


@dataclass(frozen=True)
class Identity:
    """What a folder's results were made from; results of different identities are never mixed.

    Attributes:
        contract: hash of the samples.
        settings: everything else that all entrants share.
        entrants: name to what it is, e.g. the hash of a checkpoint.
    """

    contract: str
    settings: Mapping[str, Any]
    entrants: Mapping[str, Mapping[str, Any]]


def claim_folder(folder: Path, identity: Identity, restart: bool) -> None:
    """Make ``folder`` the place of this evaluation, or go on with the same one; called by one process.

    Results of the same samples made by other weights or settings are moved to ``folder/earlier-N`` with a warning.
    New entrants beside known ones are welcome; rows by other revisions of the code are kept, with a warning. Files that
    no evaluation writes are left alone.

    Raises:
        FolderError: it holds results of another contract, or files of unknown origin that would be overwritten.
    """
    path = _identity_path(folder)
    content = {
        "format": FORMAT,
        "contract": identity.contract,
        "settings": dict(identity.settings),
        "entrants": {k: dict(v) for k, v in identity.entrants.items()},
        "code": [_code()],
    }
    content = json.loads(json.dumps(content))  # as it will be read back
    stored = _stored_identity(path)
    if stored is not None and stored["contract"] != identity.contract and not restart:
        raise FolderError(
            f"{folder} holds an evaluation of other samples (contract {stored['contract'][:12]}, now "
            f"{identity.contract[:12]}). Use another output_dir, or restart=true to move it aside."
        )
    reason = _reason_to_move(folder, stored, content, restart)
    if reason:
        _move_aside(folder, reason)
    elif stored is not None:
        content["entrants"] = {**stored["entrants"], **content["entrants"]}
        content["code"] = sorted({*stored.get("code", ["unknown"]), *content["code"]})
        if len(content["code"]) > 1:
            log.warning(
                "%s: rows of %d revisions of the code (%s); restart=true scores all of them anew.",
                folder, len(content["code"]), ", ".join(map(_short, content["code"])),
            )  # fmt: skip
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _code() -> str:
    """The revision of the code, with ``+dirty`` where files differ from it."""
    git = git_revision()
    return f"{git['revision'] or 'unknown'}{'+dirty' if git.get('dirty') else ''}"


def _short(code: str) -> str:
    revision, plus, changed = code.partition("+")
    return f"{revision[:12]}{plus}{changed}"


def revisions(folder: Path) -> list[str]:
    """Commits of the code that scored a claimed folder's rows; ``+dirty``: with changes that are in no commit."""
    stored = _stored_identity(_identity_path(folder))
    return list(stored.get("code", [])) if stored is not None else []


def _identity_path(folder: Path) -> Path:
    return folder / "journal" / "identity.json"


def _reason_to_move(
    folder: Path, stored: Mapping[str, Any] | None, now: Mapping[str, Any], restart: bool
) -> str:
    """Why what is there must make room; empty where it need not."""
    there = _written(folder)
    if stored is None and there and not all((folder / name).exists() for name in EARLIER_LAYOUT):
        raise FolderError(
            f"{folder} holds {', '.join(p.name for p in there[:5])}, which no evaluation wrote and this one would "
            "overwrite. Use another output_dir."
        )
    if restart:
        return "restart=true"
    if stored is None:
        return "an evaluation by earlier code" if there else ""
    changed = _changes(stored, now)
    return f"made with other {', '.join(changed)}" if changed else ""


def _written(folder: Path) -> list[Path]:
    return sorted(path for pattern in WRITTEN for path in folder.glob(pattern))


def _stored_identity(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            return {**stored, "settings": None}
        return stored if all(k in stored for k in ("contract", "settings", "entrants")) else None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise FolderError(f"{path}: is damaged ({error}); use another output_dir") from error


def _changes(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of what differs among what both have."""
    if stored["settings"] is None:
        return ["journal format"]
    before, after = stored["settings"], now["settings"]
    keys = {*before, *after} - ({ARITHMETIC} - before.keys())  # earlier journals do not say it
    names = [k for k in sorted(keys) if before.get(k) != after.get(k)]
    common = stored["entrants"].keys() & now["entrants"].keys()
    return names + sorted(k for k in common if stored["entrants"][k] != now["entrants"][k])


def _move_aside(folder: Path, reason: str) -> None:
    content = _written(folder)
    if not content:
        return
    number = 1 + max((int(p.name[8:]) for p in folder.glob("earlier-*") if p.name[8:].isdigit()), default=0)
    target = folder / f"earlier-{number}"
    target.mkdir()
    for path in content:
        path.rename(target / path.name)
    log.warning("%s: what was there (%s) is now in %s.", folder, reason, target)
