"""What tests of evaluations share."""

from __future__ import annotations

import pytest


@pytest.fixture
def without_plots(monkeypatch) -> None:
    """Pages of text and tables alone: to draw what a test does not look at takes seconds."""
    monkeypatch.setattr("coop3d.benchmark.report.all_plots", lambda _: {})
