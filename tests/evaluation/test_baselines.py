"""Baselines: fitted to what training targets say, blind to the image, hard to beat by accident."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.doc_examples import run_examples
from support.random_views import random_targets

from coop3d.benchmark.baselines import BASELINES
from coop3d.evaluation import (
    AllNonAmbiguous,
    ConstantDepth,
    Evaluator,
    MeanDisplacement,
    ReferencePoseRepeated,
    RowMajorityMask,
    RowMedianDepth,
    TrainingStatistics,
    TrivialBaseline,
)
from coop3d.geometry import yaw_rotation
from coop3d.types import SampleKey, ViewInputs, ViewTargets

BIN = 1.0023  # one histogram bin


def inputs_of(targets: ViewTargets) -> ViewInputs:
    B, V, H, W = targets.range_m.shape
    return ViewInputs(image=torch.rand(B, V, 3, H, W), rays=targets.rays, origins=targets.origins)


def fitted(*batches: ViewTargets) -> TrainingStatistics:
    statistics = TrainingStatistics()
    for batch in batches:
        statistics.update(batch)
    return statistics


def abs_rel(prediction, targets) -> float:
    evaluator = Evaluator()
    B, V = targets.range_m.shape[:2]
    key = SampleKey("s", "a", "f")
    evaluator.update(prediction, targets, [[key] * V] * B)
    return evaluator.summary()["range/abs_rel"]


def test_mean_displacement_by_hand():
    targets = random_targets(B=2, V=2)
    for b, (yaw, z) in enumerate([(20.0, 10.0), (-60.0, 30.0)]):
        T = torch.from_numpy(yaw_rotation(math.radians(yaw)))
        T[2, 3] = z
        targets.T_ref_view[b, 1] = T
    trans, quat = MeanDisplacement(fitted(targets))()
    torch.testing.assert_close(trans, torch.tensor([0.0, 0.0, 20.0]).double())
    half = math.radians(-20.0) / 2  # the mean of 20 and -60 degrees
    torch.testing.assert_close(quat, torch.tensor([0.0, math.sin(half), 0.0, math.cos(half)]).double())


def test_constant_depth_minimises_training_abs_rel():
    """No constant on a fine grid does better on the training set; and by hand, 1 m outweighs two of 4 m."""
    targets = random_targets(B=3, V=2, H=4, W=8, valid_fraction=0.5)
    statistics = fitted(*(replace_batch(targets, b) for b in range(3)))
    best = ConstantDepth(statistics).range_m.item()
    ranges = [targets.range_m[b, v][targets.valid[b, v]] for b in range(3) for v in range(2)]

    def score(d: float) -> float:
        return float(torch.stack([((d - r).abs() / r).mean() for r in ranges]).mean())

    assert score(best) <= min(score(d.item()) for d in torch.linspace(5, 15, 2000)) + 1e-3  # one bin's worth

    by_hand = random_targets(B=1, V=1, H=1, W=3, valid_fraction=1)
    by_hand = replace(by_hand, range_m=torch.tensor([[[[1.0, 4.0, 4.0]]]]))
    assert ConstantDepth(fitted(by_hand)).range_m.item() == pytest.approx(1.0, rel=BIN - 1)


def replace_batch(targets: ViewTargets, b: int) -> ViewTargets:
    return targets._map(lambda x: x if x is targets.vehicle else x[b : b + 1])


def test_row_depth_by_hand_and_rows_never_seen():
    targets = random_targets(B=1, V=1, H=3, W=4, valid_fraction=1)
    range_m = torch.tensor([50.0, 7.0, math.nan])[:, None].expand(3, 4)[None, None]
    targets = replace(targets, range_m=range_m.clone(), valid=range_m.isfinite())
    statistics = fitted(targets)
    rows = RowMedianDepth(statistics).range_m
    torch.testing.assert_close(rows[:2], torch.tensor([50.0, 7.0]).double(), rtol=BIN - 1, atol=0)
    assert rows[2] == ConstantDepth(statistics).range_m


def test_row_majority_mask_counts_known_pixels_only():
    targets = random_targets(B=1, V=1, H=3, W=4)
    non_ambiguous = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]).bool()[None, None]
    known = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]).bool()[None, None]
    targets = replace(targets, non_ambiguous=non_ambiguous, mask_known=known)
    assert RowMajorityMask(fitted(targets))(3).tolist() == [True, False, True]


def test_baseline_has_a_models_signature_and_leaves_the_reference_alone():
    targets = random_targets(V=3)
    statistics = fitted(targets)
    baseline = TrivialBaseline(MeanDisplacement(statistics), ConstantDepth(statistics), AllNonAmbiguous())
    prediction = baseline(inputs_of(targets))
    torch.testing.assert_close(prediction.T_ref_view[:, 0], torch.eye(4).double().expand(2, 4, 4))
    torch.testing.assert_close(prediction.trans[:, 2], statistics.mean_trans().expand(2, 3))
    assert prediction.non_ambiguous.all()
    assert prediction.points_ref.shape == (*targets.range_m.shape, 3)
    other_image = replace(inputs_of(targets), image=torch.zeros(2, 3, 3, 3, 5))
    torch.testing.assert_close(baseline(other_image).distance, prediction.distance)


def test_knowing_more_helps():
    targets = random_targets(B=2, V=2, H=8, W=16, valid_fraction=0.9)
    targets.range_m.mul_(torch.linspace(1, 4, 8)[:, None])  # rows differ
    nothing, averages = (BASELINES[name].make(fitted(targets)) for name in ("reference", "row"))
    assert abs_rel(averages(inputs_of(targets)), targets) < abs_rel(nothing(inputs_of(targets)), targets)


def test_identity_baseline_errs_by_the_distance():
    targets = random_targets(V=2)
    statistics = fitted(targets)
    baseline = TrivialBaseline(ReferencePoseRepeated(), ConstantDepth(statistics), AllNonAmbiguous())
    evaluator = Evaluator()
    evaluator.update(baseline(inputs_of(targets)), targets, [[SampleKey("s", "a", "f")] * 2] * 2)
    distances = targets.T_ref_view[:, 1, :3, 3].norm(dim=-1)
    assert evaluator.summary()["pose/translation_m/mean"] == pytest.approx(distances.mean().item())


def test_non_metric_samples_do_not_teach_metres():
    targets = random_targets(B=2)
    half = replace(targets, is_metric=torch.tensor([True, False]))
    only = fitted(replace_batch(targets, 0))
    both = fitted(half)
    torch.testing.assert_close(both.mean_trans(), only.mean_trans())
    torch.testing.assert_close(both.best_range(), only.best_range())


def test_mistakes_are_refused_with_a_reason():
    with pytest.raises(ValueError, match="no valid metric range"):
        ConstantDepth(TrainingStatistics())
    statistics = fitted(random_targets(H=3))
    with pytest.raises(ValueError, match="fitted on height 3"):
        RowMedianDepth(statistics)(4)
    with pytest.raises(ValueError, match="image height is 4"):
        statistics.update(random_targets(H=4))
    targets = random_targets()
    with pytest.raises(ValueError, match=r"inputs\.rays"):
        TrivialBaseline(ReferencePoseRepeated(), ConstantDepth(statistics), AllNonAmbiguous())(
            replace(inputs_of(targets), rays=None)
        )


def test_documentation_example_runs():
    summaries = run_examples("evaluation.md")["summaries"]
    assert [s["pose/translation_m/mean"] for s in summaries.values()] == pytest.approx([20, 10, 10])
