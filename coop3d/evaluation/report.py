"""Files and tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from coop3d.evaluation.labels import LABELS
from coop3d.evaluation.rows import (
    RowT,
    SampleRow,
    TrajectoryRow,
    ViewRow,
    columns_of,
    flatten,
    unflatten,
)
from coop3d.files import csv_text, write_json, write_text

TABLE_COLUMNS = {key: label.column for key, label in LABELS.items() if label.column}


def write_per_frame_csv(rows: Sequence[ViewRow], path: Path) -> None:
    """One line per view; scores that do not apply are written as ``nan``."""
    _write_csv(rows, ViewRow, path)


def write_per_sample_csv(rows: Sequence[SampleRow], path: Path) -> None:
    """One line per sample; scores that do not apply are written as ``nan``."""
    _write_csv(rows, SampleRow, path)


def write_trajectory_csv(rows: Sequence[TrajectoryRow], path: Path) -> None:
    """One line per gap-free drive of a vehicle; only a head where there is none."""
    _write_csv(rows, TrajectoryRow, path)


def read_per_frame_csv(path: Path) -> list[ViewRow]:
    """The rows that :func:`write_per_frame_csv` wrote, exactly."""
    return _read_csv(ViewRow, path)


def read_per_sample_csv(path: Path) -> list[SampleRow]:
    """The rows that :func:`write_per_sample_csv` wrote, exactly."""
    return _read_csv(SampleRow, path)


def read_trajectory_csv(path: Path) -> list[TrajectoryRow]:
    """The rows that :func:`write_trajectory_csv` wrote, exactly."""
    return _read_csv(TrajectoryRow, path)


def _write_csv(rows: Sequence[RowT], kind: type[RowT], path: Path) -> None:
    columns = columns_of(kind)
    write_text(path, csv_text(columns, (map(flatten(row).__getitem__, columns) for row in rows)))


def _read_csv(kind: type[RowT], path: Path) -> list[RowT]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = []
        for line, columns in enumerate(csv.DictReader(file), start=2):
            try:
                rows.append(unflatten(kind, columns))
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from error
    return rows


def write_summary_json(summary: Mapping[str, float], path: Path) -> None:
    """Flat JSON object; what is not a finite number becomes null (JSON knows neither NaN nor infinity)."""
    write_json(path, summary, indent=2)


def compare_table(summaries: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown table (readable on a console too): one row per named summary, see :meth:`Evaluator.summary`."""
    head = ["", *TABLE_COLUMNS.values()]
    body = [[name, *(_number(s[key]) for key in TABLE_COLUMNS)] for name, s in summaries.items()]
    lines = padded([head, *body])
    widths = list(map(len, lines[0]))
    lines.insert(1, ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def padded(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Cells as wide as their column: the first one's text to the left, the others' numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]


def aligned_text(lines: Sequence[Sequence[str]]) -> str:
    """A table for a console."""
    return "\n".join("  ".join(line).rstrip() for line in padded(lines))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
