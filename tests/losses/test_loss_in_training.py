"""What the trainer does for a loss: the curriculum's progress and the watch over the mask."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from support.toy_run import make_trainer, records

from coop3d.losses import MaskTerm, MetricPoseTerm, MetricRangeTerm, PiecewiseLinear, WeightedSum


def make(run_dir: Path, **changes):
    trainer = make_trainer(run_dir, **changes)
    loss = WeightedSum(
        {"range": MetricRangeTerm(), "pose": MetricPoseTerm(weight=0.5), "mask": MaskTerm()},
        curriculum={"pose": PiecewiseLinear([[0.0, 4.0], [0.5, 1.0]])},
    )
    trainer.task = replace(trainer.task, loss_function=loss)
    return trainer


def test_weights_follow_the_steps_and_validation_uses_the_last(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make(tmp_path).fit()  # 12 steps, 3 validations
    weights = [r["loss/pose/weight"] for r in records(tmp_path, "train")]
    ramp = [0.5 * max(4 - 3 * step / 6, 1) for step in range(12)]
    assert weights == pytest.approx(ramp)
    assert [r["loss/pose/weight"] for r in records(tmp_path, "val")] == pytest.approx([0.5] * 3)
    complaints = [r.message for r in caplog.records if "true mask is nearly constant" in r.message]
    assert len(complaints) == 1  # the toy's truth is all True; said once, not at every step
    assert complaints[0].startswith("Step 1: mask: ")


def test_a_resumed_run_continues_the_curriculum(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make(whole).fit()
    stopped = make(parts)
    stopped.task.train.sigterm_at = (0, 6)
    stopped.fit()
    make(parts).fit()
    curves = [
        [(r["step"], r["loss/pose/weight"], r["loss"]) for r in records(d, "train")] for d in (whole, parts)
    ]
    assert curves[0] == curves[1]
