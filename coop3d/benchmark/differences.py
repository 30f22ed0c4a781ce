"""How the difference of two runs is written: with its sign, and with as many digits as its interval bears."""

from __future__ import annotations

import math

from coop3d.benchmark.cells import NOTHING, has_width
from coop3d.evaluation import Comparison
from coop3d.evaluation.labels import is_share
from coop3d.visualization.pages import escape

KINDS = {"better": "win", "worse": "loss"}  # class of a cell by its verdict
SHARES = "Differences of shares are in percentage points (pp)."
_DIGITS, _MOST_DECIMALS = 3, 3


def difference_text(key: str, found: Comparison, mark: str = "", interval: bool = True) -> str:
    """For a table of text: sign, value, [interval], and a mark such as a star for certainty."""
    value, low, high = _written(key, found)
    between = f" [{low}, {high}] " if interval and low else ""
    return f"{value}{between}{mark}".rstrip()


def difference_cell(key: str, found: Comparison, verdict: str, note: str = "") -> str:
    """A ``<td>``: sign and value, coloured by the verdict; below it the interval and a note in small print."""
    value, low, high = _written(key, found)
    lines = [f"{low} to {high}" if low else "", note if value != NOTHING else ""]
    below = "".join(f"<small>{escape(line)}</small>" for line in lines if line)
    return f'<td class="{KINDS.get(verdict, "")}">{escape(value)}{below}</td>'


def _written(key: str, found: Comparison) -> tuple[str, str, str]:
    """(difference, low, high) as text, "" for an interval that is unknown or has no width.

    All three have the decimals that give the largest of them three digits, but three at most: what an interval leaves
    open is no digit of the difference.
    """
    if not math.isfinite(found.difference):
        return NOTHING, "", ""
    factor, unit = (100.0, " pp") if is_share(key) else (1.0, "")
    bounds = [factor * x for x in (found.low, found.high)] if has_width(found) else []
    largest = max(abs(x) for x in (factor * found.difference, *bounds))
    magnitude = math.floor(math.log10(largest)) if largest > 0 else _DIGITS
    decimals = min(max(_DIGITS - 1 - magnitude, 0), _MOST_DECIMALS)
    low, high = (_rounded(x, decimals, "-") for x in bounds) if bounds else ("", "")
    return _rounded(factor * found.difference, decimals, "+") + unit, low, high


def _rounded(value: float, decimals: int, sign: str) -> str:
    """With its sign ("+": always, "-": below 0); what is rounded to 0 has none."""
    text = f"{value:{sign}.{decimals}f}"
    return text if float(text) else text.lstrip("+-")
