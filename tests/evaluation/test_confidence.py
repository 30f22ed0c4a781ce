"""Confidence against error: known orders, a plain twin, and scipy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from support.random_views import perfect_prediction, random_prediction, random_targets

from coop3d.evaluation import evaluate_batch
from coop3d.evaluation.confidence import MAX_PIXELS, confidence_scores
from coop3d.types import SampleKey

ERRORS = np.random.default_rng(0).exponential(size=500)


def plain_ause(confidence, error):
    """Remove pixel after pixel; confidences must be distinct."""

    def area(by):
        kept = error[np.argsort(by)[::-1]]
        return np.mean([kept[: k + 1].mean() for k in range(len(kept))])

    return (area(confidence) - area(-error)) / (error.mean() - area(-error))


def test_the_right_order_is_perfect_and_the_reverse_is_worse_than_chance():
    assert confidence_scores(-ERRORS, ERRORS) == pytest.approx((0, 1), abs=1e-12)
    ause, spearman = confidence_scores(ERRORS, ERRORS)
    assert ause > 1.5
    assert spearman == pytest.approx(-1)


def test_by_hand():
    """Errors 1, 3, kept by confidence 3 first: curve (3, 2); best (1, 2); chance (2, 2)."""
    ause, spearman = confidence_scores(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    assert ause == pytest.approx((2.5 - 1.5) / (2 - 1.5))
    assert spearman == pytest.approx(-1)


def test_tied_ranks_by_hand():
    """Ranks of confidence 1.5, 1.5, 3 and of minus the error 1, 2, 3: 1.5 / sqrt(1.5 * 2)."""
    found = confidence_scores(np.array([1.0, 1.0, 2.0]), np.array([3.0, 2.0, 1.0]))
    assert found.spearman == pytest.approx(math.sqrt(3) / 2)


@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0])
def test_against_a_plain_twin_and_scipy(noise):
    confidence = np.exp(-ERRORS) + noise * np.random.default_rng(1).random(len(ERRORS))
    ause, spearman = confidence_scores(confidence, ERRORS)
    assert ause == pytest.approx(plain_ause(confidence, ERRORS), abs=1e-9)
    assert spearman == pytest.approx(spearmanr(confidence, -ERRORS).statistic, abs=1e-9)


def test_only_the_order_of_confidence_matters():
    confidence = np.random.default_rng(2).random(len(ERRORS))
    assert confidence_scores(np.exp(5 * confidence), ERRORS) == pytest.approx(
        confidence_scores(confidence, ERRORS)
    )


def test_ties_are_no_order():
    """Constant confidence knows nothing, even when the pixels happen to lie in the order of their errors."""
    ause, spearman = confidence_scores(np.ones(500), np.sort(ERRORS))
    assert ause == pytest.approx(1)
    assert math.isnan(spearman)
    halves = np.repeat([2.0, 1.0], 250)  # sure of the better half: the mean of all orders within the halves
    error = np.sort(ERRORS)
    rng = np.random.default_rng(3)
    drawn = [plain_ause(halves + 1e-6 * rng.random(500), error) for _ in range(200)]
    assert confidence_scores(halves, error).ause == pytest.approx(np.mean(drawn), abs=0.01)


def test_nothing_to_know():
    assert all(math.isnan(x) for x in confidence_scores(np.arange(4.0), np.full(4, 0.5)))
    assert all(math.isnan(x) for x in confidence_scores(np.arange(4.0), np.zeros(4)))
    assert all(math.isnan(x) for x in confidence_scores(np.zeros(0), np.zeros(0)))


def test_many_pixels_are_thinned_evenly():
    rng = np.random.default_rng(4)
    error = rng.exponential(size=5 * MAX_PIXELS)
    confidence = np.exp(-error) + rng.random(len(error))
    assert confidence_scores(confidence, error).spearman == pytest.approx(
        spearmanr(confidence, -error).statistic, abs=0.03
    )


def test_each_view_gets_its_own_pixels_and_a_wrong_scale_is_forgiven():
    targets = random_targets(B=2, V=2, H=20, W=30)
    prediction = random_prediction(targets).detach()
    error = (prediction.range_m / targets.range_m).log().abs()
    sure = 1 + torch.exp(-torch.where(targets.valid, error, 0.0))
    knowing = replace(prediction, confidence=sure)
    knowing.confidence[1, 1] = 1.0
    keys = [[SampleKey("s", f"c{v}", f"{b}") for v in range(2)] for b in range(2)]
    rows = evaluate_batch(knowing, targets, keys)
    median = [
        (prediction.range_m / targets.range_m)[b, v].nanmedian().item() for b in range(2) for v in range(2)
    ]
    for row, ratio, (b, v) in zip(rows, median, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True):
        m = targets.valid[b, v]
        p, t = prediction.range_m[b, v][m] / ratio, targets.range_m[b, v][m]
        expected = confidence_scores(knowing.confidence[b, v][m].numpy(), ((p - t).abs() / t).numpy())
        assert row.confidence_ause == pytest.approx(expected.ause)
        assert row.confidence_log == pytest.approx(float(knowing.confidence[b, v][m].double().log().mean()))
    assert rows[3].confidence_ause == pytest.approx(1)
    assert rows[3].confidence_log == 0.0
    rescaled = evaluate_batch(replace(knowing, scale=knowing.scale * 3), targets, keys)
    assert [r.confidence_ause for r in rescaled] == pytest.approx([r.confidence_ause for r in rows])
    exact = evaluate_batch(perfect_prediction(targets), targets, keys)
    assert math.isnan(exact[0].confidence_spearman)


def test_support_of_a_pose_reaches_its_vehicle_and_no_reference():
    targets = random_targets(B=1, V=3)
    prediction = random_prediction(targets).detach()
    keys = [[SampleKey("s", f"c{v}", "0") for v in range(3)]]
    supported = replace(prediction, pose_support=torch.tensor([[0.0, 7.5, 0.0]]))
    assert [r.pose_support for r in evaluate_batch(supported, targets, keys)][1:] == [7.5, 0.0]
    for p in (supported, prediction):
        assert np.isnan(evaluate_batch(p, targets, keys)[0].pose_support)
    assert np.isnan(evaluate_batch(prediction, targets, keys)[1].pose_support)
