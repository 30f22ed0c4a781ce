"""Findings as console text, JSON, CSV and rows; the page is in ``page``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coop3d.benchmark.cells import number
from coop3d.benchmark.differences import SHARES, difference_text
from coop3d.benchmark.robustness.findings import KEYS, LEVEL, Finding, Findings
from coop3d.evaluation import (
    CERTAIN_SCENARIOS,
    Comparison,
    Interval,
    ViewRow,
    aligned_text,
    verdict,
    write_per_frame_csv,
)
from coop3d.evaluation.labels import LABELS, directed
from coop3d.files import csv_text, safe_name, write_json, write_text

FORMAT, VERSION = "coop3d-robustness", 1
CSV_COLUMNS = (
    "disturbance", "family", "severity", "unit", "samples", "score", "clean", "disturbed", "difference", "low", "high",
    "p_permutation", "count", "scenarios", "verdict",
)  # fmt: skip


def findings_table(title: str, found: Findings) -> str:
    """The console's table: the clean run, then what each disturbance changes."""
    keys = found.keys
    lines = [["", "samples", *short_heads(keys), "knows"]]
    lines.append(["clean", "", *(f"{number(k, found.clean[k].value)} " for k in keys), ""])
    for case in found.cases:
        changes = [_change(k, case.scores[k]) for k in keys]
        lines.append([case.case.name, str(case.samples), *changes, case.knows])
    parts = [title, "", aligned_text(lines), "", *_small_print(found)]
    for heading, first, rows in groups(found):
        body = [[name, count, *(number(k, row[k].value) for k in keys)] for name, count, row in rows]
        parts += ["", heading, aligned_text([[first, "views", *short_heads(keys)], *body])]
    return "\n".join(parts) + "\n"


def short_heads(keys: Iterable[str]) -> list[str]:
    """Of the columns of scores."""
    return [directed(key, LABELS[key].short) for key in keys]


def _change(key: str, found: Comparison) -> str:
    """Difference to the clean run; a star, or the space of one, so that digits stay below each other."""
    return difference_text(key, found, interval=False) + ("*" if verdict(key, found) else " ")


def _small_print(found: Findings) -> list[str]:
    lines = [
        "Differences to the clean run, frame by frame, at the same targets. *: certainly worse or better, the 95 % "
        f"interval excludes 0, over {CERTAIN_SCENARIOS} scenarios or more; ↑ ↓: which way is better. {SHARES}",
        "knows: the mean confidence certainly falls (1 % or more) where an error certainly grew; unharmed: none grew.",
    ]
    if warning := shown_warning(found):
        lines.append(f"! {warning}")
    lines += [
        f"! {f.case.name}: {n} samples left out: {why}" for f in found.cases for why, n in f.left_out.items()
    ]
    return lines + [f"! {name} skipped: {reason}" for name, reason in found.skipped.items()]


def shown_warning(found: Findings) -> str:
    """What the intervals suffer from, "" if nothing."""
    return found.clean[LEVEL].warning


def vehicle_cases(found: Findings) -> list[Finding]:
    """Those of other numbers of vehicles."""
    return [f for f in found.cases if f.case.family == "vehicles"]


Group = tuple[str, str, list[tuple[str, str, Mapping[str, Interval]]]]


def groups(found: Findings) -> Iterable[Group]:
    """Tables of values instead of differences: (heading, head of the first column, rows)."""
    if cases := vehicle_cases(found):
        rows = [(f"{f.case.severity:g}", str(f.own[LEVEL].count), f.own) for f in cases]
        yield "By number of vehicles: every vehicle's own scores", "vehicles", rows
    if found.sight:
        unknown = f"; unknown for {found.unsighted} views" if found.unsighted else ""
        heading = f"By shared sight with the reference: other vehicles' views, clean run{unknown}"
        yield heading, "share", [(name, str(s[LEVEL].count), s) for name, s in found.sight.items()]


def write_findings(
    folder: Path, head: Mapping[str, Any], found: Findings, table: str, rows: Mapping[str, Sequence[ViewRow]]
) -> None:
    """Rows, table and CSV, then ``robustness.json`` last: where it is, everything is."""
    for name, some in rows.items():
        if some:
            write_per_frame_csv(some, folder / "robustness_rows" / f"{safe_name(name)}.csv")
    write_text(folder / "table.txt", table)
    write_text(folder / "robustness.csv", _csv(found))
    write_json(folder / "robustness.json", content_of(head, found))


def content_of(head: Mapping[str, Any], found: Findings) -> dict[str, Any]:
    """``robustness.json``, see docs/robustness.md; NaN are still NaN."""
    return {
        "format": FORMAT,
        "version": VERSION,
        **head,
        "clean": {k: asdict(v) for k, v in found.clean.items()},
        "disturbances": [_case_json(f) for f in found.cases],
        "skipped": dict(found.skipped),
        "sight": {name: {k: asdict(v) for k, v in scores.items()} for name, scores in found.sight.items()},
        "sight_unknown": found.unsighted,
    }


def _case_json(found: Finding) -> dict[str, Any]:
    case = found.case
    return {
        "name": case.name,
        "family": case.family,
        "severity": case.severity,
        "unit": case.unit,
        "about": case.about,
        "samples": found.samples,
        "left_out": dict(found.left_out),
        "knows": found.knows,
        "worse": list(found.worse),
        "scores": {
            k: {"clean": c.a, "disturbed": c.b, **_without(asdict(c), "a", "b"), "verdict": verdict(k, c)}
            for k, c in found.scores.items()
        },
        "own": {k: asdict(v) for k, v in found.own.items()},
        "views_sorted": {name: scores._asdict() for name, scores in found.views_sorted.items()},
    }


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in names}


def _csv(found: Findings) -> str:
    rows: list[list[object]] = []
    for f in found.cases:
        for key in KEYS:
            c, d = f.case, f.scores[key]
            rows.append(
                [c.name, c.family, c.severity, c.unit, f.samples, key, d.a, d.b, d.difference, d.low, d.high,
                 d.p_permutation, d.count, d.scenarios, verdict(key, d)]
            )  # fmt: skip
    return csv_text(CSV_COLUMNS, rows)
