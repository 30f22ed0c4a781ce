"""The doctor's report as a page: verdicts, bands, marks in their place, nothing run or requested."""

from __future__ import annotations

import re

import pytest
from support.browser import CHROMEDRIVER, CHROMIUM, MISSING

from coop3d.visualization.doctor_page import write_doctor_html

HOSTILE = "<img src=x onerror=alert(1)>"


def check(name: str, value: float | None, ok: bool | None, low: float = 0.8, high: float = 0.9) -> dict:
    return {
        "name": name,
        "value": value,
        "low": low,
        "high": high,
        "unit": "m",
        "hint": f"mend {name}",
        "ok": ok,
    }


@pytest.fixture
def page(tmp_path):
    checks = [
        check("covered", 0.85, True),
        check("cropped", 0.33, False),
        check("high", 2.0, False),
        check("clouds", None, None),
        check("exact", 1.0, True, 1.0, 1.0),
    ]
    report = {
        "split": HOSTILE,
        "counts": {"frames": 12},
        "checks": checks,
        "unreadable": [f"x.yaml: {HOSTILE}"],
    }
    good = {"split": "val", "counts": {}, "checks": checks[:1], "unreadable": []}
    return write_doctor_html(tmp_path / "doctor.html", [report, good], HOSTILE)


def test_marks_stand_where_the_values_are(page):
    """The band takes the middle half of a bar 200 wide; what lies beyond as much again stops at its end."""
    text = page.read_text(encoding="utf-8")
    assert [float(x) + 1.5 for x in re.findall(r'class="mark" x="(.*?)"', text)] == [100.0, 0.0, 200.0, 100.0]
    assert "<title>Data: 3 failed" in text  # two checks and one frame that cannot be read
    assert "mend cropped" in text
    assert "mend covered" not in text
    assert HOSTILE not in text
    assert list(page.parent.iterdir()) == [page]


def test_all_well_says_so(tmp_path):
    report = {"split": "val", "counts": {}, "checks": [check("covered", 0.85, True)], "unreadable": []}
    text = write_doctor_html(tmp_path / "a.html", [report]).read_text(encoding="utf-8")
    assert "every check holds" in text


@pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason=MISSING)
def test_in_a_browser(page, browser):
    browser.requests()
    browser.open(page)
    assert browser.run("return document.querySelectorAll('tbody tr').length") == 6
    assert browser.run("return document.querySelectorAll('tr.fail').length") == 2
    before = browser.run("return getComputedStyle(document.body).backgroundColor")
    browser.run("document.getElementById('theme').click()")
    assert browser.run("return getComputedStyle(document.body).backgroundColor") != before
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.console() == []
