"""A comparison as console text, CSV and one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coop3d.benchmark.cells import cell, number
from coop3d.benchmark.compare import RunComparison
from coop3d.benchmark.differences import SHARES, difference_cell
from coop3d.benchmark.report import plot_cards
from coop3d.benchmark.results import Result
from coop3d.evaluation import CERTAIN_P, CERTAIN_SCENARIOS, aligned_text, survives_permutation, verdict
from coop3d.evaluation.labels import title_of
from coop3d.files import csv_text, write_text
from coop3d.visualization.documents import card, document, facts, table
from coop3d.visualization.pages import Markup, escape

CERTAIN = (
    "Certain: the paired 95 % interval of the difference excludes 0 and exchanging the runs gives "
    f"p < {CERTAIN_P:g}, over {CERTAIN_SCENARIOS} scenarios or more. Scores are tested one by one: of twenty useless "
    "differences one looks certain"
)
CSV_COLUMNS = (
    "score", "run", "value", "low", "high", "against", "difference", "difference_low", "difference_high",
    "p_permutation", "winner",
)  # fmt: skip


def comparison_text(found: RunComparison) -> str:
    """A table for the console: a line per score, a column per run, ``*`` at certain winners."""
    names = [e.name for e in found.entrants]
    lines = [["", *names]]
    for key in found.keys:
        cells = []
        for e in found.entrants:
            interval = e.intervals[key]
            text = (
                f"{number(key, e.summary[key])} [{number(key, interval.low)}, {number(key, interval.high)}]"
            )
            cells.append(f"{text}{' *' if found.winners.get(key) == e.name else '  '}")
        lines.append([key, *cells])
    notes = [f"! {w}" for w in found.warnings]
    scores = ", ".join(
        f"{name} {score:.2f}" for name, score in sorted(found.scores.items(), key=lambda p: p[1])
    )
    notes.append(f"* certainly better than every other run. {CERTAIN}")
    notes.append(f"weighted score (0 = best at everything): {scores}; {_best(found)}")
    return "\n".join([aligned_text(lines), "", *notes, *([found.advice] if found.advice else [])])


def _best(found: RunComparison) -> str:
    return f"best: {found.best}" if found.best else "no best: no weighted score has a number in all runs"


def write_comparison(found: RunComparison, results: Sequence[Result], folder: Path) -> Path:
    """Write ``compare.html`` and ``compare.csv``; return the page's path."""
    write_text(folder / "compare.csv", _csv(found))
    path = folder / "compare.html"
    first = found.entrants[0].name
    names = ", ".join(e.name for e in found.entrants if e.kind == "checkpoint")
    contract = results[0].contract
    note = f"{contract['samples']} samples, contract {contract['name']}; differences are against {first}"
    joined = Result(folder=folder, head=results[0].head, entrants=found.entrants)
    numbers = Markup(f'<div class="two">{_values(found)}{_differences(found)}</div>')
    body = [_warnings(found), _choice(found), numbers, plot_cards(joined)]
    write_text(path, document(f"Comparison of {names}", note, "".join(body)))
    return path


def _csv(found: RunComparison) -> str:
    rows: list[list[object]] = []
    first = found.entrants[0].name
    for key in found.keys:
        for e in found.entrants:
            interval, pair = e.intervals[key], found.differences.get(e.name, {}).get(key)
            against: tuple[object, ...] = ("",) * 5
            if pair is not None:
                against = (first, pair.difference, pair.low, pair.high, pair.p_permutation)
            wins = found.winners.get(key) == e.name
            rows.append([key, e.name, e.summary[key], interval.low, interval.high, *against, wins])
    return csv_text(CSV_COLUMNS, rows)


def _warnings(found: RunComparison) -> Markup:
    lines = "".join(f'<p class="warning">{escape(w)}</p>' for w in found.warnings)
    return card("Attention", lines) if lines else Markup("")


def _values(found: RunComparison) -> Markup:
    rows = [
        (
            title_of(key),
            [
                cell(key, e.summary[key], e.intervals[key], "win" if found.winners.get(key) == e.name else "")
                for e in found.entrants
            ],
        )
        for key in found.keys
    ]
    about = (
        "Small print: 95 % intervals over resampled scenarios. Coloured: certainly better than every other run. "
        f"{CERTAIN}. That intervals of single runs overlap says nothing."
    )
    return card("Scores", table(["", *(e.name for e in found.entrants)], rows), about)


def _differences(found: RunComparison) -> Markup:
    head = ["", *(f"{name} − {found.entrants[0].name}" for name in found.differences)]
    rows = [
        (title_of(key), [_difference(found, key, name) for name in found.differences]) for key in found.keys
    ]
    about = (
        "Paired on the same samples; below, the 95 % interval and the permutation test's p. "
        f"Blue: certainly better, orange: certainly worse. {SHARES}"
    )
    return card("Differences", table(head, rows), about)


def _difference(found: RunComparison, key: str, name: str) -> str:
    pair = found.differences[name][key]
    found_to_be = verdict(key, pair, survives_permutation) if key in found.judged else ""
    return difference_cell(key, pair, found_to_be, f"p {pair.p_permutation:.2g}")


def _choice(found: RunComparison) -> Markup:
    ordered = sorted(found.scores.items(), key=lambda pair: pair[1])
    lines = facts({name: f"{score:.3f}" for name, score in ordered})
    advice = f'<p class="quiet">{escape(found.advice)}</p>' if found.advice else ""
    about = (
        "Weighted mean over scores of log2(error / smallest error of all runs): 0 is best at everything, 1 is twice "
        f"the error; {_best(found)}."
    )
    return card("Which checkpoint to keep", f"{lines}{advice}", about)
