"""Cells of HTML tables: numbers with intervals, the best in bold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from coop3d.benchmark.pixels import all_alike, comparable, same_gain
from coop3d.benchmark.results import EntrantResult
from coop3d.evaluation import Interval, best_of
from coop3d.visualization.pages import escape

COLUMNS = {
    "pose/translation_m/median": "translation, median [m]",
    "pose/translation_m/p90": "translation, 90 % [m]",
    "pose/rotation_deg/median": "rotation, median [deg]",
    "pose/direction_deg/median": "direction, median [deg]",
    "pose/recall_2m_2deg": "within 2 m, 2 deg",
    "pose/recall_5m_5deg": "within 5 m, 5 deg",
    "scale/error/median": "scale off by",
    "range/abs_rel": "AbsRel",
    "range/abs_rel_aligned": "AbsRel aligned",
    "range/delta_125": "within 1.25x",
    "mask/iou": "mask IoU",
}
POINT_COLUMNS = {
    "points_filtered/chamfer_m": "chamfer [m]",
    "points_filtered/fscore_50cm": "F at 50 cm",
    "gain_filtered/fscore_50cm": "gain in F by cooperation",
}
KINDS = {"better": "win", "worse": "loss", "": ""}  # class of a cell with a difference
SHARES = ("recall", "delta")  # shown in per cent


def is_share(key: str) -> bool:
    """Whether a score is shown in per cent."""
    return key.rsplit("/", 1)[-1].startswith(SHARES)


def number(key: str, value: float) -> str:
    """A score as text: shares in per cent, three digits elsewhere; a dash for what does not apply."""
    if not math.isfinite(value):
        return "–"
    if is_share(key):
        return f"{100 * value:.0f} %"
    if abs(value) < 5e-4:
        return "0"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def cell(key: str, value: float, interval: Interval | None = None, kind: str = "") -> str:
    """A ``<td>`` with the number and, below it, its interval."""
    below = ""
    if interval is not None and math.isfinite(interval.low) and math.isfinite(interval.high):
        below = f"<small>{escape(number(key, interval.low))} to {escape(number(key, interval.high))}</small>"
    return f'<td class="{kind}">{escape(number(key, value))}{below}</td>'


def score_cells(
    entrants: Sequence[EntrantResult], columns: Mapping[str, str] = COLUMNS
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(head, rows) of a table: an entrant per row, a score per column; bold: the best of those that compare."""
    keys = [k for k in columns if any(math.isfinite(e.summary.get(k, math.nan)) for e in entrants)]
    fair = [e for e in entrants if e.kind != "oracle"]
    judged = comparable(keys, all_alike(entrants), same_gain(entrants))
    best = {k: best_of(k, {e.name: e.summary.get(k, math.nan) for e in fair}) for k in judged}
    rows = [
        (
            e.name,
            [
                cell(
                    k, e.summary.get(k, math.nan), e.intervals.get(k), "best" if best.get(k) == e.name else ""
                )
                for k in keys
            ],
        )
        for e in entrants
    ]
    return ["", *(columns[k] for k in keys)], rows
