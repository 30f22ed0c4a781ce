"""Registration of centres: invariance, counting by hand, and what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.alignment import umeyama
from support.random_views import perfect_prediction, random_targets

from coop3d.evaluation import score_batch, summarise
from coop3d.evaluation.registration import THRESHOLDS_M, registration_scores, registration_table
from coop3d.types import SampleKey

CENTRES = np.array([[0, 0, 0], [20, 0, 5], [-15, 1, 30], [4, -1, 60], [30, 0, 45.0]])


def test_any_similarity_registers_all():
    turned = 0.03 * Rotation.from_rotvec([0.3, 2.0, -0.4]).apply(CENTRES) + [5, -7, 100]
    s = registration_scores(turned, CENTRES)
    assert s.centres == 5
    assert (s.maa, s.clusterness, s.score) == pytest.approx((1, 1, 1))
    assert s[4:] == (1, 1, 1, 1, 1)


def test_one_vehicle_far_off_by_hand():
    """Four of five fit at every threshold, three of them for free: (4 - 3) / (5 - 3)."""
    moved = CENTRES.copy()
    moved[4] += [0, 300, 0]
    s = registration_scores(moved, CENTRES)
    assert s.maa == pytest.approx(0.5)
    assert s.registered_50cm == s.registered_10m == pytest.approx(0.8)
    assert s.score == pytest.approx(2 * 0.5 / 1.5)


def test_registered_rise_with_the_threshold():
    """One of five is 8 m above the plane of the others: beyond 2 m a compromise holds all five."""
    flat = CENTRES * [1, 0, 1]
    moved = flat.copy()
    moved[4, 1] = 8.0
    assert THRESHOLDS_M == (0.5, 1.0, 2.0, 5.0, 10.0)
    assert registration_table(moved, flat).tolist() == [4, 4, 4, 5, 5]
    assert registration_scores(moved, flat).maa == pytest.approx((1 + 1 + 1 + 2 + 2) / (5 * 2))
    residual = np.linalg.norm(umeyama(moved, flat).apply(moved) - flat, axis=1)
    assert 2 < residual.max() < 5  # least squares over all agrees with the table


def test_mirrored_centres_do_not_register():
    """No rotation undoes a reflection of centres that fill space."""
    solid = CENTRES * [1, 20, 1]
    assert registration_scores(solid * [1, -1, 1], solid).maa < 0.5
    assert registration_scores(solid, solid).maa == pytest.approx(1)


def test_unregistered_and_foreign_centres():
    true = np.vstack([CENTRES, [np.nan] * 3])
    pred = np.vstack([CENTRES, [1.0, 2.0, 3.0]])
    s = registration_scores(pred, true)
    assert s.maa == pytest.approx(1)
    assert s.clusterness == pytest.approx(5 / 6)
    assert s.score == pytest.approx(2 * (5 / 6) / (1 + 5 / 6))
    pred[:2] = np.nan  # two were not registered: three centres fit, which is nothing
    s = registration_scores(pred, true)
    assert s.maa == 0
    assert s.registered_50cm == pytest.approx(0.6)
    assert s.clusterness == pytest.approx(3 / 4)
    assert registration_scores(np.full_like(pred, np.nan), true)[1:4] == (0, 0, 0)


def test_collapsed_prediction_is_counted():
    s = registration_scores(np.zeros_like(CENTRES), CENTRES)
    assert (s.maa, s.clusterness, s.score, s.registered_10m) == (0, 1, 0, 0)


def test_undefined():
    assert registration_scores(CENTRES[:3], CENTRES[:3]).centres == 3
    assert math.isnan(registration_scores(CENTRES[:3], CENTRES[:3]).score)
    line = np.outer(np.arange(5.0), [1.0, 2.0, 3.0])
    assert math.isnan(registration_scores(line, line).maa)


def test_many_centres_stay_bounded_and_right():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(60, 3)) * 50
    pred = 2 * true + rng.normal(size=(60, 3)) * 0.1
    pred[:6] += 1000
    assert registration_scores(pred, true).registered_1m == pytest.approx(54 / 60)


def test_in_the_summary_only_samples_with_four_vehicles():
    rows, samples = [], []
    for V in (3, 4):
        targets = random_targets(B=2, V=V)
        keys = [[SampleKey("s", f"c{v}", f"{V}{b}") for v in range(V)] for b in range(2)]
        r, s = score_batch(perfect_prediction(targets), targets, keys)
        rows += r
        samples += s
    summary = summarise(rows, samples)
    assert summary["registration/samples"] == 2
    assert summary["registration/maa"] == pytest.approx(1)
    assert summary["registration/clusterness"] == 1


def test_views_of_one_vehicle_are_one_centre():
    targets = random_targets(B=1, V=6)
    targets = targets.__class__(**{**targets.__dict__, "vehicle": torch.tensor([0, 0, 1, 1, 2, 2])})
    keys = [[SampleKey("s", f"c{v}", "0") for v in range(6)]]
    _, samples = score_batch(perfect_prediction(targets), targets, keys)
    assert samples[0].vehicles == samples[0].registration.centres == 3
    assert samples[0].pairs == 12
