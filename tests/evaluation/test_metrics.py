"""Metrics against values by hand; each kind of mistake must show in the metric that is meant to catch it."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.random_views import perfect_prediction, random_targets

from coop3d.evaluation import (
    Evaluator,
    MaskCounts,
    compare_table,
    distance_bucket,
    evaluate_batch,
    pose_errors,
    scale_error,
)
from coop3d.evaluation.dense import RangeScores, compare_range, mask_table
from coop3d.evaluation.rows import flatten
from coop3d.geometry import yaw_rotation
from coop3d.types import FactoredPrediction, SampleKey, ViewTargets


def keys(B: int = 2, V: int = 3) -> list[list[SampleKey]]:
    return [[SampleKey("town", f"car{v}", f"{b:06d}") for v in range(V)] for b in range(B)]


@pytest.fixture
def targets() -> ViewTargets:
    return random_targets(V=3, H=4, W=8)


@pytest.fixture
def perfect(targets: ViewTargets) -> FactoredPrediction:
    return perfect_prediction(targets)


def summary(prediction: FactoredPrediction, targets: ViewTargets) -> dict[str, float]:
    evaluator = Evaluator()
    evaluator.update(prediction, targets, keys(*targets.range_m.shape[:2]))
    return evaluator.summary()


def pose(yaw_deg: float, x: float, y: float, z: float) -> torch.Tensor:
    T = torch.from_numpy(yaw_rotation(math.radians(yaw_deg)))
    T[:3, 3] = torch.tensor([x, y, z])
    return T


def test_pose_errors_by_hand():
    e = pose_errors(pose(10, 3, 0, 4), pose(-25, 0, 0, 4))
    assert e.translation_m.item() == pytest.approx(3)
    assert e.rotation_deg.item() == pytest.approx(35)
    assert e.yaw_deg.item() == pytest.approx(35)
    assert e.direction_deg.item() == pytest.approx(math.degrees(math.atan2(3, 4)))
    assert e.distance_m.item() == pytest.approx(4)


def test_yaw_wraps_and_ignores_roll_while_rotation_does_not():
    assert pose_errors(pose(175, 0, 0, 1), pose(-175, 0, 0, 1)).yaw_deg.item() == pytest.approx(10)
    rolled = pose(0, 0, 0, 1)
    a = math.radians(20)  # about z, the forward axis
    rolled[:2, :2] = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    e = pose_errors(rolled, pose(0, 0, 0, 1))
    assert e.yaw_deg.item() == pytest.approx(0, abs=1e-9)
    assert e.rotation_deg.item() == pytest.approx(20)


def test_direction_of_no_translation():
    assert pose_errors(pose(0, 0, 0, 0), pose(0, 1, 0, 0)).direction_deg.item() == 90
    assert pose_errors(pose(0, 1, 0, 0), pose(0, 0, 0, 0)).direction_deg.isnan()


@pytest.mark.parametrize(
    ("distance", "bucket"),
    [
        (0, "0-15m"),
        (14.99, "0-15m"),
        (15, "15-30m"),
        (30, "30-60m"),
        (60, "60-100m"),
        (100, "100+m"),
        (1e4, "100+m"),
    ],
)
def test_buckets_are_half_open(distance, bucket):
    assert distance_bucket(distance) == bucket


def range_scores(pred_m: list[float], true_m: list[float]) -> RangeScores:
    """Scores of one view with one row of pixels."""
    targets = random_targets(B=1, V=1, H=1, W=len(true_m), valid_fraction=1.0)
    targets = replace(targets, range_m=torch.tensor(true_m).double().reshape(1, 1, 1, -1))
    distance = torch.tensor(pred_m).double().reshape(1, 1, 1, -1)
    return compare_range(replace(perfect_prediction(targets, scale=1.0), distance=distance), targets).views[
        0
    ][0]


def test_range_errors_by_hand():
    e = range_scores([11.0, 16.0, 4.0], [10.0, 20.0, 8.0]).raw
    assert e.abs_rel == pytest.approx((0.1 + 0.2 + 0.5) / 3)
    assert e.rmse_m == pytest.approx(math.sqrt((1 + 16 + 16) / 3))
    assert e.mae_m == pytest.approx(3)
    assert e.delta_125 == pytest.approx(1 / 3)  # 20 / 16 is exactly 1.25: not below


def test_scale_error_treats_too_large_and_too_small_alike():
    assert scale_error(2.0) == pytest.approx(2.0)
    assert scale_error(0.5) == pytest.approx(2.0)
    assert range_scores([1.0, 6.0, 30.0], [1.0, 2.0, 3.0]).ratio == 3


def test_mask_by_hand():
    pred = torch.tensor([True, True, False, False, True])
    truth = torch.tensor([True, False, True, False, True])
    known = torch.tensor([True, True, True, True, False])
    counts = MaskCounts(*mask_table(pred, truth, known).tolist())
    assert counts == MaskCounts(tp=1, fp=1, fn=1, tn=1)
    assert counts.iou == counts.ambiguous_iou == pytest.approx(1 / 3)
    assert counts.precision == counts.recall == 0.5
    assert math.isnan(MaskCounts(0, 0, 0, 4).recall)


def test_perfect_prediction_scores_perfectly(targets, perfect):
    s = summary(perfect, targets)
    assert s["views"] == 6
    assert s["pose/count"] == 4  # the reference views do not count
    for name in ("translation_m", "rotation_deg", "yaw_deg", "direction_deg"):
        assert s[f"pose/{name}/mean"] == pytest.approx(0, abs=1e-5)  # quaternion and back, in degrees
    assert s["pose/recall_1m_1deg"] == 1
    assert s["scale/error/median"] == pytest.approx(1)
    assert s["range/abs_rel"] == pytest.approx(0, abs=1e-12)
    assert s["range/delta_125"] == s["range/delta_125_aligned"] == 1
    assert s["mask/iou"] == s["mask/precision"] == s["mask/recall"] == s["mask/ambiguous_iou"] == 1


def test_flipped_translation_shows_in_direction_and_translation(targets, perfect):
    s = summary(replace(perfect, trans=-perfect.trans), targets)
    assert s["pose/direction_deg/median"] == pytest.approx(180)
    distances = targets.T_ref_view[:, 1:, :3, 3].norm(dim=-1)
    assert s["pose/translation_m/mean"] == pytest.approx(2 * distances.mean().item())
    assert s["pose/rotation_deg/mean"] == pytest.approx(0, abs=1e-5)
    assert s["pose/recall_5m_5deg"] < 1


def test_wrong_scale_shows_in_scale_raw_range_and_translation_only(targets, perfect):
    s = summary(replace(perfect, scale=perfect.scale / 2), targets)
    assert s["scale/error/median"] == pytest.approx(2)
    assert s["range/abs_rel"] == pytest.approx(0.5)
    assert s["range/abs_rel_aligned"] == pytest.approx(0, abs=1e-12)
    assert s["range/delta_125_aligned"] == 1
    assert s["pose/translation_m/mean"] > 1
    assert s["pose/direction_deg/mean"] == pytest.approx(0, abs=1e-5)


def test_all_zero_mask_shows_in_iou_and_recall(targets, perfect):
    s = summary(replace(perfect, mask_logits=torch.full_like(perfect.mask_logits, -1)), targets)
    assert s["mask/iou"] == s["mask/recall"] == 0
    all_one = summary(replace(perfect, mask_logits=torch.ones_like(perfect.mask_logits)), targets)
    assert all_one["mask/ambiguous_iou"] == 0
    assert all_one["mask/recall"] == 1


def test_reference_pose_is_never_averaged_in(targets, perfect):
    """A wrong pose of view 0 changes nothing; wrong poses of the others are not diluted by it."""
    moved = perfect.trans.clone()
    moved[:, 0] += 100
    assert summary(replace(perfect, trans=moved), targets)["pose/translation_m/mean"] < 1e-9
    moved = perfect.trans.clone()
    moved[:, 1:, 1] += 3 / 7  # perfect has scale 7: 3 m down
    assert summary(replace(perfect, trans=moved), targets)["pose/translation_m/mean"] == pytest.approx(3)


def test_buckets_hold_each_vehicle_once(targets, perfect):
    s = summary(perfect, targets)
    assert sum(v for k, v in s.items() if k.startswith("pose/") and k.endswith("m/count")) == 4


def test_statistics_by_hand(targets, perfect):
    errors = torch.tensor([[1.0, 2.0], [3.0, 10.0]]).double()
    moved = perfect.trans.clone()
    moved[:, 1:, 0] += errors / 7
    s = summary(replace(perfect, trans=moved), targets)
    assert s["pose/translation_m/median"] == pytest.approx(2.5)
    assert s["pose/translation_m/mean"] == pytest.approx(4)
    assert s["pose/translation_m/p90"] == pytest.approx(3 + 0.7 * 7)  # linear between order statistics
    assert s["pose/recall_2m_2deg"] == pytest.approx(0.5)
    assert s["pose/recall_5m_5deg"] == pytest.approx(0.75)


def test_sample_without_metric_scale_gets_no_metric_score(targets, perfect):
    targets = replace(targets, is_metric=torch.tensor([True, False]))
    rows = evaluate_batch(perfect, targets, keys())
    assert [math.isnan(r.translation_error_m) for r in rows] == [True, False, False, True, True, True]
    assert math.isnan(rows[4].abs_rel)
    assert rows[4].abs_rel_aligned == pytest.approx(0, abs=1e-12)
    assert rows[4].rotation_error_deg < 1e-5


def test_view_without_valid_pixels_and_mask_that_nobody_knows(targets, perfect):
    targets.valid[0, 1] = False
    targets = replace(targets, mask_known=torch.zeros_like(targets.mask_known))
    s = summary(perfect, targets)
    assert s["range/abs_rel"] == pytest.approx(0, abs=1e-12)
    assert math.isnan(s["mask/iou"])


def test_nan_prediction_is_an_error_not_a_missing_row(targets, perfect):
    broken = perfect.distance.clone()
    broken[1, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="town/car0/000001"):
        evaluate_batch(replace(perfect, distance=broken), targets, keys())


def test_files(tmp_path, targets, perfect):
    targets = replace(targets, mask_known=torch.zeros_like(targets.mask_known))
    evaluator = Evaluator()
    evaluator.update(perfect, targets, keys())
    other = Evaluator()
    other.extend(evaluator.rows, evaluator.samples)
    evaluator.write(tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "per_frame.csv").open()))
    assert [(r["scenario"], r["agent"], r["frame"]) for r in rows[:2]] == [
        ("town", "car0", "000000"),
        ("town", "car1", "000000"),
    ]
    assert rows[0]["translation_error_m"] == "nan"
    assert float(rows[1]["distance_m"]) == pytest.approx(targets.T_ref_view[0, 1, :3, 3].norm().item())
    loaded = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert loaded["mask/iou"] is None
    assert loaded["pose/count"] == 4
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "per_frame.csv",
        "per_sample.csv",
        "summary.json",
    ]
    np.testing.assert_equal(other.summary(), evaluator.summary())
    assert list(rows[0]) == list(flatten(other.rows[0]))


def test_compare_table(targets, perfect):
    s = summary(perfect, targets)
    lines = compare_table({"model": s, "baseline": {**s, "mask/iou": math.nan}}).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[2].startswith("| model ")
    assert lines[3].rstrip(" |").endswith("-")
