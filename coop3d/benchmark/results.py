"""What an evaluation leaves behind: rows, summaries, one ``metrics.json`` that says how every number came about."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coop3d.benchmark.journal import Scored
from coop3d.benchmark.views import Views, described_views, scored_split
from coop3d.evaluation import (
    HEADLINE,
    Interval,
    SampleRow,
    ScoreTable,
    TrajectoryRow,
    ViewRow,
    bootstrap,
    compare_table,
    measured_trajectories,
    read_per_frame_csv,
    read_per_sample_csv,
    read_trajectory_csv,
    score_table,
    write_per_frame_csv,
    write_per_sample_csv,
    write_summary_json,
    write_trajectory_csv,
)
from coop3d.evaluation.labels import family_titles
from coop3d.files import names_apart, write_json

FORMAT, VERSION = "coop3d-metrics", 1
TRAJECTORY_KEYS = tuple(family_titles("trajectory/"))


class ResultError(ValueError):
    """A folder of results that cannot be read; the message says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class EntrantResult:
    """Everything one entrant scored.

    Attributes:
        name, kind, inputs: see `Entrant`; inputs are "truth" for an oracle.
        rows, samples: in the contract's order.
        trajectories: over consecutive frames, where there are some and they could be measured.
        trajectory_note: why there are none.
        notes: how often each was said.
        seconds: mean per sample, of prediction alone.
        checkpoint: path, step, SHA-256 and more, for a trained model.
        views: what it was scored on, see `described_views`; empty where that is not known.
        alone: gains are against what it says of the reference vehicle by itself, not against that vehicle's part.
    """

    name: str
    kind: str
    inputs: str
    rows: tuple[ViewRow, ...]
    samples: tuple[SampleRow, ...]
    trajectories: tuple[TrajectoryRow, ...] = ()
    trajectory_note: str = ""
    notes: Mapping[str, int] = field(default_factory=dict)
    seconds: float = math.nan
    checkpoint: Mapping[str, Any] | None = None
    views: Views = field(default_factory=dict)
    alone: bool = False
    summary: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name in file names."""
        return re.sub(r"\W+", "_", self.name).strip("_")

    @property
    def table(self) -> ScoreTable:
        """Every statistic of the rows, trajectories included."""
        return score_table(self.rows, self.samples, self.trajectories)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A whole evaluation.

    ``head`` is ``metrics.json`` without its entrants: contract, mode, options, config, code, environment, times.
    """

    folder: Path
    head: Mapping[str, Any]
    entrants: tuple[EntrantResult, ...]

    @property
    def contract(self) -> Mapping[str, Any]:
        """Name, hash and shape of the contract."""
        contract: Mapping[str, Any] = self.head["contract"]
        return contract

    @property
    def models(self) -> list[EntrantResult]:
        """Trained models among the entrants."""
        return [e for e in self.entrants if e.kind == "checkpoint"]


def entrant_result(
    name: str,
    kind: str,
    inputs: str,
    scored: Iterable[Scored],
    checkpoint: Mapping[str, Any] | None = None,
    views: Views | None = None,
    alone: bool = False,
) -> EntrantResult:
    """Join an entrant's records, which are in the contract's order, and summarise them."""
    records = list(scored)
    rows = tuple(row for record in records for row in record.rows)
    samples = tuple(row for record in records for row in record.samples)
    seconds = [record.seconds for record in records]
    entrant = EntrantResult(
        name=name,
        kind=kind,
        inputs=inputs,
        rows=rows,
        samples=samples,
        notes=dict(sorted(Counter(note for record in records for note in record.notes).items())),
        seconds=sum(seconds) / len(seconds) if seconds else math.nan,
        checkpoint=checkpoint,
        views=views or {},
        alone=alone,
    )
    return summarised(with_trajectories(entrant))


def with_trajectories(entrant: EntrantResult) -> EntrantResult:
    """The entrant with its trajectories measured (again), from its rows."""
    trajectories, note = measured_trajectories(entrant.rows, entrant.samples)
    return replace(entrant, trajectories=tuple(trajectories), trajectory_note=note)


def summarised(
    entrant: EntrantResult, keys: Sequence[str] = HEADLINE + TRAJECTORY_KEYS, resamples: int = 2000
) -> EntrantResult:
    """The entrant with summary and intervals of ``keys`` computed (again), from its rows."""
    table = entrant.table
    intervals = bootstrap(table, keys, resamples) if entrant.rows else {}
    return replace(entrant, summary=table.summary(), intervals=intervals)


def by_run(entrants: Iterable[EntrantResult]) -> dict[str, list[EntrantResult]]:
    """Checkpoints whose step is known by the folder they lie in, each run's in the order of steps.

    Runs are named by as many folders as tell them apart.
    """
    runs: dict[Path, list[EntrantResult]] = {}
    for entrant in entrants:
        if entrant.checkpoint and "step" in entrant.checkpoint:
            runs.setdefault(Path(entrant.checkpoint.get("path", "")).parent, []).append(entrant)
    names = names_apart(list(runs))
    return {
        name: sorted(of_run, key=lambda e: int(e.checkpoint["step"]) if e.checkpoint else 0)
        for name, of_run in zip(names, runs.values(), strict=True)
    }


def write_result(result: Result) -> None:
    """Rows and summaries of every entrant, then ``metrics.json`` last: where it is, everything is."""
    named = file_names(result.entrants)
    for entrant, files in zip(result.entrants, named, strict=True):
        write_per_frame_csv(entrant.rows, result.folder / files["per_frame"])
        write_per_sample_csv(entrant.samples, result.folder / files["per_sample"])
        write_trajectory_csv(entrant.trajectories, result.folder / files["trajectory"])
        write_summary_json(entrant.summary, result.folder / files["summary"])
    content = {
        "format": FORMAT,
        "version": VERSION,
        **result.head,
        "entrants": [_entrant_json(e, files) for e, files in zip(result.entrants, named, strict=True)],
    }
    write_json(result.folder / "metrics.json", content)


def file_names(entrants: Sequence[EntrantResult]) -> list[dict[str, str]]:
    """Files of each entrant: the first one's have plain names, and names that would be written alike are numbered."""
    tails: list[str] = []
    for entrant in entrants:
        tail, number = f"_{entrant.slug}" if tails else "", 2
        while tail.lower() in {known.lower() for known in tails}:  # some file systems know no capitals
            tail, number = f"_{entrant.slug}_{number}", number + 1
        tails.append(tail)
    return [
        {
            "per_frame": f"per_frame{tail}.csv",
            "per_sample": f"per_sample{tail}.csv",
            "trajectory": f"trajectory{tail}.csv",
            "summary": f"summary{tail}.json",
        }
        for tail in tails
    ]


def _entrant_json(entrant: EntrantResult, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": entrant.name,
        "kind": entrant.kind,
        "inputs": entrant.inputs,
        "checkpoint": entrant.checkpoint,
        "views": dict(entrant.views),
        "alone": entrant.alone,
        "samples": len(entrant.samples),
        "seconds_per_sample": entrant.seconds,
        "notes": dict(entrant.notes),
        "trajectories": {"count": len(entrant.trajectories), "note": entrant.trajectory_note},
        "files": dict(files),
        "summary": dict(entrant.summary),
        "intervals": {k: _fields(v) for k, v in entrant.intervals.items()},
    }


def _fields(interval: Interval) -> dict[str, Any]:
    return {name: getattr(interval, name) for name in Interval.__annotations__}


def read_result(folder: Path | str) -> Result:
    """Read what `write_result` wrote.

    Raises:
        ResultError: it is not such a folder, or files are missing or damaged.
    """
    folder = Path(folder)
    path = folder / "metrics.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            raise ResultError(f"{path}: is no {FORMAT} of version {VERSION}; evaluate again")
        parts = content.pop("entrants")
        earlier = {"views": _views_of_one_model(content, parts)}
        asked = bool(content.get("options", {}).get("alone"))
        entrants = tuple(
            _read_entrant(folder, {**earlier, "alone": asked and part["kind"] == "checkpoint", **part})
            for part in parts
        )
    except FileNotFoundError as error:
        raise ResultError(
            f"{error.filename}: is missing. {folder} must be the output_dir of a finished scripts/evaluate.py."
        ) from error
    except ResultError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ResultError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); evaluate again"
        ) from error
    return Result(folder=folder, head=content, entrants=entrants)


def _views_of_one_model(head: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> Views:
    """For results that do not say it of each entrant: of the config kept, which is the first model's."""
    if sum(part["kind"] == "checkpoint" for part in parts) != 1 or "config" not in head:
        return {}
    return described_views(head["config"], scored_split(head.get("options", {})))


def _read_entrant(folder: Path, part: Mapping[str, Any]) -> EntrantResult:
    numbers = {k: math.nan if v is None else v for k, v in part["summary"].items()}
    intervals = {k: _interval(parts) for k, parts in part["intervals"].items()}
    seconds, files = part["seconds_per_sample"], part["files"]
    trajectories = part.get("trajectories", {"count": 0, "note": "evaluated before trajectories were"})
    return EntrantResult(
        name=part["name"],
        kind=part["kind"],
        inputs=part["inputs"],
        rows=tuple(read_per_frame_csv(folder / files["per_frame"])),
        samples=tuple(read_per_sample_csv(folder / files["per_sample"])),
        trajectories=tuple(read_trajectory_csv(folder / files["trajectory"]))
        if "trajectory" in files
        else (),
        trajectory_note=trajectories["note"],
        notes=part["notes"],
        seconds=math.nan if seconds is None else seconds,
        checkpoint=part["checkpoint"],
        views=part["views"],
        alone=part["alone"],
        summary=numbers,
        intervals=intervals,
    )


def _interval(parts: Mapping[str, Any]) -> Interval:
    values: dict[str, Any] = {name: math.nan if v is None else v for name, v in parts.items()}
    return Interval(**values)


def result_table(title: str, entrants: Sequence[EntrantResult]) -> str:
    """The console's table: a title, one line per entrant, and what entrants noted of their failures."""
    table = compare_table({e.name: e.summary for e in entrants})
    notes = "".join(f"\n{e.name}: {notes_text(e)}" for e in entrants if e.notes)
    return f"{title}\n\n{table}\n{notes}\n" if notes else f"{title}\n\n{table}\n"


def notes_text(entrant: EntrantResult) -> str:
    """Counts of an entrant's notes, and first for how many vehicles there was no metric pose."""
    total = sum(entrant.notes.values())
    without = sum(n for note, n in entrant.notes.items() if note.startswith("failed") or note == "guess")
    counts = ", ".join(f"{note} {n}" for note, n in entrant.notes.items())
    return f"no metric pose for {without} of {total} vehicles, {entrant.seconds:.2f} s per sample ({counts})"
