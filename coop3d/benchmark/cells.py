"""Cells of HTML tables: numbers with intervals, the best in bold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from coop3d.benchmark.pixels import all_alike, comparable, same_gain
from coop3d.benchmark.results import EntrantResult
from coop3d.evaluation import Comparison, Interval, best_of
from coop3d.evaluation.labels import is_share, titles
from coop3d.visualization.pages import escape

COLUMNS = titles(
    "pose/translation_m/median", "pose/translation_m/p90", "pose/rotation_deg/median", "pose/direction_deg/median",
    "pose/recall_2m_2deg", "pose/recall_5m_5deg", "scale/error/median", "range/abs_rel", "range/abs_rel_aligned",
    "range/delta_125", "mask/iou",
)  # fmt: skip
NOTHING = "–"  # where a score does not apply


def number(key: str, value: float) -> str:
    """A score as text: shares in per cent, three digits elsewhere; a dash for what does not apply."""
    if not math.isfinite(value):
        return NOTHING
    if is_share(key):
        return f"{100 * value:.0f} %"
    if abs(value) < 5e-4:
        return "0"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def has_width(interval: Interval | Comparison) -> bool:
    """Whether its bounds are known and differ: those of a single scenario do not."""
    return -math.inf < interval.low < interval.high < math.inf


def cell(key: str, value: float, interval: Interval | None = None, kind: str = "") -> str:
    """A ``<td>`` with the number and, below it, its interval."""
    below = ""
    if interval is not None and has_width(interval):
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
