"""Validation measures cooperation beside what the reference vehicle could do alone."""

import json

import torch
from support.analytic_panoramas import batch
from support.toy_run import make_trainer

from coop3d.types import CoopBatch


def test_the_reference_alone_keeps_its_own_views():
    both: CoopBatch = batch(("641", "650"), width=56)
    alone = both.reference_only()
    assert alone.inputs.shape == (1, 1, *both.inputs.shape[2:])
    assert alone.keys == ((both.keys[0][0],),)
    torch.testing.assert_close(alone.targets.range_m, both.targets.range_m[:, :1], equal_nan=True)
    assert alone.targets.T_ref_view.shape == (1, 1, 4, 4)
    assert alone.targets.is_metric.shape == (1,)
    assert alone.targets.vehicle.tolist() == [0]


def test_photographs_of_one_vehicle_stay_together():
    four = batch(("641", "650", "663", "671"), width=56)
    views = CoopBatch(
        inputs=four.inputs,
        targets=four.targets.__class__(**{**vars(four.targets), "vehicle": torch.tensor([0, 0, 1, 1])}),
        keys=four.keys,
    )
    assert views.reference_only().inputs.shape[1] == 2


def test_log_has_cooperative_and_single_metrics_of_the_same_frames(tmp_path):
    trainer = make_trainer(tmp_path, epochs=1)
    trainer.fit()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    (val,) = [row for row in rows if row["kind"] == "val"]
    assert "range/abs_rel" in val
    assert "single/range/abs_rel" in val
    assert not any(name.startswith("single/pose") for name in val)
