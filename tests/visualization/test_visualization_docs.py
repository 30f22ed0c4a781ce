"""The example of the room's page."""

from __future__ import annotations

import tempfile

import numpy as np
from support.doc_examples import run_examples


def test_example_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = run_examples("visualization.md")
    assert made["page"].stat().st_size > 100_000
    errors = made["scene"].views[0].predicted.error_m
    ranges = made["scene"].views[0].truth.range_m
    assert abs(np.nanmax(errors) / ranges.max() - 0.1) < 0.03  # 10 % too large
