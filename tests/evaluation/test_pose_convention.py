"""Pose AUC as the field computes it, and what its blindness to sign hides."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.random_views import perfect_prediction, random_prediction, random_targets
from support.score_rows import scored

from coop3d.evaluation import score_batch, summarise
from coop3d.evaluation.pose import convention_auc, fold_direction
from coop3d.types import SampleKey


def histogram_auc(errors_deg, threshold):
    """The published recipe: bins of one degree, accumulated, averaged."""
    histogram, _ = np.histogram(errors_deg, bins=np.arange(threshold + 1))
    return float(np.mean(np.cumsum(histogram / len(errors_deg))))


@pytest.mark.parametrize("threshold", [5, 10, 30])
def test_contributions_average_to_the_area_under_the_accumulated_histogram(threshold):
    rng = np.random.default_rng(0)
    rotation = np.concatenate([rng.uniform(0, 40, 500), [0, 1, 2, 4.999, 5, 10, 29.999, 30, 30.001, 179]])
    direction = np.concatenate([rng.uniform(0, 180, 500), np.zeros(10)])
    folded = np.minimum(direction, 180 - direction)
    got = convention_auc(torch.tensor(rotation), torch.tensor(direction), threshold).mean().item()
    assert got == pytest.approx(histogram_auc(np.maximum(rotation, folded), threshold), abs=1e-12)


def test_area_by_hand():
    """Errors 0.5 and 3.2 degrees of 5: accumulated shares are 1/2, 1/2, 1/2, 1, 1."""
    rotation, direction = torch.tensor([0.5, 3.2]), torch.tensor([0.0, 179.0])
    assert convention_auc(rotation, direction, 5).mean().item() == pytest.approx(3.5 / 5)


def test_fold_forgets_the_sign_and_counts_the_undefined():
    folded = fold_direction(torch.tensor([0.0, 80.0, 90.0, 170.0, 180.0, math.nan]))
    assert folded.tolist() == [0, 80, 90, 10, 0, 90]


def test_all_pairs_of_vehicles_against_a_slow_twin():
    targets = random_targets(B=3, V=4)
    noisy = perfect_prediction(targets)
    g = torch.Generator().manual_seed(5)
    noisy = replace(
        noisy,
        trans=noisy.trans + 0.05 * torch.randn(noisy.trans.shape, generator=g, dtype=torch.float64),
        quat_xyzw=noisy.quat_xyzw
        + 0.03 * torch.randn(noisy.quat_xyzw.shape, generator=g, dtype=torch.float64),
    )
    T_pred, T_true = noisy.T_ref_view.numpy(), targets.T_ref_view.numpy()
    errors = []
    for b in range(3):
        for i in range(4):
            for j in range(i + 1, 4):
                P, Q = np.linalg.inv(T_pred[b, i]) @ T_pred[b, j], np.linalg.inv(T_true[b, i]) @ T_true[b, j]
                rotation = np.degrees(Rotation.from_matrix(Q[:3, :3].T @ P[:3, :3]).magnitude())
                p, q = P[:3, 3], Q[:3, 3]
                cosine = abs(p @ q) / np.linalg.norm(p) / np.linalg.norm(q)
                errors.append(max(rotation, np.degrees(np.arccos(min(cosine, 1.0)))))
    s = summarise(*scored(noisy, targets))
    assert s["pose/convention/pairs"] == 18
    for threshold in (5, 10, 30):
        expected = histogram_auc(errors, threshold)
        assert s[f"pose/convention/auc_{threshold}"] == pytest.approx(expected, abs=1e-9)
    assert 0 < s["pose/convention/auc_5"] < s["pose/convention/auc_30"] < 1  # the case says something


def test_pairs_weigh_equally_not_samples():
    """Six perfect pairs of four vehicles and one wrong pair of two: 6/7, not 1/2."""
    rows, samples = [], []
    for V, trans_factor in ((4, 1.0), (2, 0.0)):
        targets = random_targets(B=1, V=V)
        perfect = perfect_prediction(targets)
        keys = [[SampleKey("town", f"car{v}", str(V)) for v in range(V)]]
        r, s = score_batch(replace(perfect, trans=trans_factor * perfect.trans), targets, keys)
        rows += r
        samples += s
    summary = summarise(rows, samples)
    assert summary["pose/convention/pairs"] == 7
    assert summary["pose/convention/auc_30"] == pytest.approx(6 / 7)


def test_the_convention_does_not_see_a_sign_flip_and_ours_does():
    """Other vehicles on the wrong side: perfect for the convention between two vehicles."""
    targets = random_targets(B=2, V=2)
    perfect = perfect_prediction(targets)
    s = summarise(*scored(replace(perfect, trans=-perfect.trans), targets))
    assert s["pose/convention/auc_5"] == 1
    assert s["pose/direction_deg/median"] == pytest.approx(180)
    assert s["pose/sign_flip_rate"] == 1
    assert s["pose/sign_flip_pairs"] == 2


def test_sign_flips_count_only_where_vehicles_are_apart():
    targets = random_targets(B=2, V=3)
    T = targets.T_ref_view.clone()
    T[:, 1:, :3, 3] = torch.tensor([[[0, 0, 4.9], [0, 0, 5.1]], [[0, 0, 50], [6, 0, 0]]], dtype=T.dtype)
    targets = replace(targets, T_ref_view=T)
    perfect = perfect_prediction(targets)
    flipped = perfect.trans.clone()
    flipped[0] *= -1  # one below and one above 5 m
    flipped[1, 2] = 0  # no displacement is neither side
    s = summarise(*scored(replace(perfect, trans=flipped), targets))
    assert s["pose/sign_flip_pairs"] == 2
    assert s["pose/sign_flip_rate"] == pytest.approx(1 / 2)
    assert s["pose/0-15m/sign_flip_pairs"] == 1
    assert s["pose/30-60m/sign_flip_rate"] == 0
    nowhere = summarise(*scored(replace(perfect, trans=torch.zeros_like(perfect.trans)), targets))
    assert nowhere["pose/sign_flip_pairs"] == 0
    assert math.isnan(nowhere["pose/sign_flip_rate"])
    assert nowhere["pose/direction_deg/median"] == 90


def test_direction_and_recall_per_bucket():
    targets = random_targets(B=2, V=2)
    T = targets.T_ref_view.clone()
    T[:, 1, :3, 3] = torch.tensor([[0, 0, 10.0], [0, 0, 40.0]], dtype=T.dtype)
    targets = replace(targets, T_ref_view=T)
    perfect = perfect_prediction(targets)
    moved = perfect.trans.clone()
    moved[1, 1, 0] += 3 / 7
    s = summarise(*scored(replace(perfect, trans=moved), targets))
    assert s["pose/0-15m/recall_2m_2deg"] == 1
    assert s["pose/30-60m/recall_2m_2deg"] == 0
    assert s["pose/30-60m/recall_5m_5deg"] == 1
    assert s["pose/30-60m/direction_deg/median"] == pytest.approx(math.degrees(math.atan2(3, 40)))
    assert s["pose/0-15m/direction_deg/median"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(s["pose/100+m/recall_5m_5deg"])


def test_coinciding_vehicles_count_as_a_right_angle_in_the_convention_only():
    targets = random_targets(B=1, V=2)
    T = targets.T_ref_view.clone()
    T[:, 1, :3, 3] = 0
    targets = replace(targets, T_ref_view=T)
    s = summarise(*scored(perfect_prediction(targets), targets))
    assert s["pose/convention/auc_30"] == 0
    assert math.isnan(s["pose/direction_deg/median"])
    assert s["pose/recall_1m_1deg"] == 1


def test_one_vehicle_has_no_pairs():
    targets = random_targets(V=1)
    s = summarise(*scored(random_prediction(targets).detach(), targets))
    assert s["pose/convention/pairs"] == 0
    assert math.isnan(s["pose/convention/auc_30"])
