"""Parts of HTML pages: the frame, tables of numbers with intervals. Everything that is data is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from coop3d.benchmark.results import EntrantResult
from coop3d.evaluation import Interval, better
from coop3d.visualization.pages import Markup, asset, escape, fill

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{{title}} · coop3d</title>
<style>{{style}}</style>
</head>
<body>
<header>
  <div>
    <h1>{{title}}</h1>
    <p class="quiet">{{note}}</p>
  </div>
  <nav><button type="button" id="theme"></button></nav>
</header>
<main>{{body}}</main>
<script>{{script}}
themeSwitch();</script>
</body>
</html>
"""
_STYLE = """
main { max-width: 1500px; }
.block { padding: 12px 16px 14px; min-width: 0; }
.scroll { overflow-x: auto; }
.block table { margin: 0; white-space: nowrap; }
.block tbody tr:last-child > * { border-bottom: 0; }
.block th, .block td { padding-right: 14px; }
.block td:last-child, .block th:last-child { padding-right: 0; }
thead th:not(:first-child) { text-align: right; white-space: normal; }
tbody th { color: var(--ink); }
tr.other th, tr.other td { color: var(--quiet); }
td small { display: block; font-size: 11px; font-weight: 400; color: var(--quiet); }
td.best { font-weight: 650; }
td.win { color: var(--accent); font-weight: 650; }
td.loss { color: #d2691e; font-weight: 650; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(620px, 100%), 1fr)); gap: 14px; }
.plots figure { min-width: 0; }
.plots .wide { grid-column: 1 / -1; }
.plots svg { width: 100%; height: auto; display: block; }
.plots figcaption { padding: 0 0 6px; color: var(--ink); font-size: 14px; font-weight: 600; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 2px 18px; margin: 0; }
.facts dt { color: var(--quiet); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.warning { border-left: 3px solid #d98a1f; padding-left: 10px; margin: 8px 0 0; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(560px, 100%), 1fr)); gap: 14px; }
ul { margin: 4px 0 0; padding-left: 20px; }
"""
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
SHARES = ("recall", "delta")  # shown in per cent


def page(title: str, note: str, body: str) -> Markup:
    """A whole page in the look of the other pages; needs no other file and no network."""
    values = {
        "title": title,
        "note": note,
        "style": Markup(asset("common.css") + _STYLE),
        "script": Markup(asset("common.js")),
        "body": Markup(body),
    }
    return fill(_FRAME, values)


def card(title: str, content: str, about: str = "") -> Markup:
    """A titled box; ``content`` is HTML, the rest is text."""
    quiet = f'<p class="quiet">{escape(about)}</p>' if about else ""
    return Markup(f'<section class="card block"><h2>{escape(title)}</h2>{quiet}{content}</section>')


def facts(pairs: Mapping[str, object]) -> Markup:
    """Names and values, one line each."""
    lines = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs.items())
    return Markup(f'<dl class="facts">{lines}</dl>')


def table(
    head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], classes: Sequence[str] = ()
) -> Markup:
    """Rows of (label, cells); labels and head are text, cells are ``<td>`` elements already."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    kinds = classes or [""] * len(rows)
    lines = "".join(
        f'<tr class="{kind}"><th>{escape(label)}</th>{"".join(cells)}</tr>'
        for (label, cells), kind in zip(rows, kinds, strict=True)
    )
    return Markup(
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def number(key: str, value: float) -> str:
    """A score as text: shares in per cent, three digits elsewhere; a dash for what does not apply."""
    if not math.isfinite(value):
        return "–"
    if key.rsplit("/", 1)[-1].startswith(SHARES):
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
    """(head, rows) of a table: an entrant per row, a score per column, the best non-oracle of each in bold."""
    keys = [k for k in columns if any(math.isfinite(e.summary.get(k, math.nan)) for e in entrants)]
    best = {k: _best(entrants, k) for k in keys}
    rows = [
        (
            e.name,
            [
                cell(k, e.summary.get(k, math.nan), e.intervals.get(k), "best" if best[k] == e.name else "")
                for k in keys
            ],
        )
        for e in entrants
    ]
    return ["", *(columns[k] for k in keys)], rows


def _best(entrants: Sequence[EntrantResult], key: str) -> str:
    sign = -1.0 if better(key) == "higher" else 1.0
    fair = [e for e in entrants if e.kind != "oracle" and math.isfinite(e.summary.get(key, math.nan))]
    return min(fair, key=lambda e: sign * e.summary[key]).name if fair else ""
