"""How differences are written: sign, digits, units, marks."""

from __future__ import annotations

import math

import pytest

from coop3d.benchmark.cells import cell
from coop3d.benchmark.differences import difference_cell, difference_text
from coop3d.evaluation import Comparison, Interval


def pair(difference: float, low: float = math.nan, high: float = math.nan) -> Comparison:
    return Comparison(
        a=0.0, b=difference, difference=difference, low=low, high=high, p_bootstrap=0.5, p_permutation=0.5, count=10,
        scenarios=10, warning="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "numbers", "text"),
    [
        ("range/abs_rel", (0.03, 0.0181, 0.0449), "+0.030 [0.018, 0.045]"),
        ("pose/translation_m/median", (2.04, -9.12, 12.88), "+2.0 [-9.1, 12.9]"),
        ("pose/translation_m/median", (-1234.4, -1300.2, -20.6), "-1234 [-1300, -21]"),
        ("pose/translation_m/median", (0.04, -8.0, 12.0), "0.0 [-8.0, 12.0]"),  # no sign: it may be either
        ("confidence/log", (-0.0012, -0.0027, 0.0002), "-0.001 [-0.003, 0.000]"),  # three decimals at most
        ("scale/error/median", (0.0, 0.0, 0.0), "0"),
        ("scale/error/median", (-0.5, math.nan, math.nan), "-0.500"),
        ("scale/error/median", (-0.5, -0.5, -0.5), "-0.500"),
        ("scale/error/median", (math.nan, math.nan, math.nan), "–"),
        ("pose/recall_5m_5deg", (-0.25, -0.4, 0.002), "-25.0 pp [-40.0, 0.2]"),
    ],
)
def test_digits_are_those_of_the_interval(key, numbers, text):
    found = pair(*numbers)
    assert difference_text(key, found) == text
    assert difference_text(key, found, "*", interval=False) == f"{text.partition(' [')[0]}*"


def test_marks_follow_the_interval():
    assert difference_text("range/abs_rel", pair(1.0, 0.5, 1.5), "**") == "+1.00 [0.50, 1.50] **"


def test_an_interval_without_width_is_not_written():
    for low, high, below in (
        (0.4, 0.6, "<small>0.4 to 0.6</small>"),
        (0.5, 0.5, ""),
        (math.nan, math.nan, ""),
    ):
        interval = Interval(0.5, low, high, count=3, scenarios=1, warning="")
        assert cell("range/abs_rel", 0.5, interval) == f'<td class="">0.5{below}</td>'


def test_cells_are_coloured_by_the_verdict():
    found = pair(-1.0, -1.5, -0.5)
    small = "<small>-1.50 to -0.50</small><small>p 0.01 &lt; 0.05</small>"
    assert (
        difference_cell("range/abs_rel", found, "better", "p 0.01 < 0.05")
        == f'<td class="win">-1.00{small}</td>'
    )
    assert difference_cell("range/abs_rel", found, "worse").startswith('<td class="loss">')
    assert difference_cell("range/abs_rel", found, "unclear").startswith('<td class="">')
    assert difference_cell("range/abs_rel", pair(math.nan), "", "p nan") == '<td class="">–</td>'
