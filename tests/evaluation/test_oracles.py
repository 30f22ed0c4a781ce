"""The ceiling scores perfectly, a noisy pose costs what its noise says, a level road is a closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.analytic_panoramas import ROAD_Y, batch
from support.random_views import random_targets

from coop3d.evaluation import TrainingStatistics, pose_errors, score_batch, summarise
from coop3d.evaluation.baselines import GroundPlaneBaseline, GroundTruth, NoisyGnss, ground_plane_range
from coop3d.types import SampleKey


def test_the_truth_scores_perfectly_through_the_same_pipeline():
    truth = batch(("641", "650", "700"))
    prediction = GroundTruth()(truth.targets, truth.keys)
    summary = summarise(*score_batch(prediction, truth.targets, truth.keys, points=True))
    assert summary["pose/translation_m/p90"] < 1e-4
    assert summary["pose/rotation_deg/p90"] < 0.05  # float32 rotation matrices
    assert summary["scale/error/p90"] == pytest.approx(1, abs=1e-5)
    assert summary["range/abs_rel"] == pytest.approx(0, abs=1e-6)
    assert summary["range/delta_125"] == 1
    assert summary["mask/iou"] == 1
    assert summary["mask/ambiguous_iou"] == 1
    assert summary["points/fscore_20cm"] == pytest.approx(1, abs=1e-3)


def test_gnss_noise_has_the_spread_it_says():
    """Two vehicles with independent noise: sqrt(2) times one's, and the reference's heading error times distance."""
    B, distance = 4000, 30.0
    targets = random_targets(B=B, V=2, H=1, W=1, valid_fraction=1.0)
    T = torch.eye(4, dtype=torch.float64).repeat(B, 2, 1, 1)
    T[:, 1, 2, 3] = distance
    targets = replace(targets, T_ref_view=T)
    keys = [[SampleKey("town", str(v), f"{b:06d}") for v in range(2)] for b in range(B)]
    noisy = NoisyGnss(0.2, 0.2)
    prediction = noisy(targets, keys)
    error = (prediction.T_ref_view - T)[:, 1, :3, 3].numpy()
    sideways = np.sqrt(2 * 0.2**2 + (distance * np.radians(0.2)) ** 2)
    assert error[:, 0].std() == pytest.approx(sideways, rel=0.06)  # 4000 draws: 1.1 % standard error
    assert error[:, 2].std() == pytest.approx(0.2 * np.sqrt(2), rel=0.06)
    assert np.abs(error[:, 1]).max() < 1e-9  # in the ground plane
    headings = pose_errors(prediction.T_ref_view, T).yaw_deg[:, 1].numpy()
    assert np.sqrt((headings**2).mean()) == pytest.approx(0.2 * np.sqrt(2), rel=0.06)
    torch.testing.assert_close(prediction.T_ref_view[:, 0], T[:, 0])
    part = noisy(random_part(targets, 7), keys[7:8])
    assert torch.equal(part.T_ref_view[0], prediction.T_ref_view[7])  # whatever else is in the batch


def random_part(targets, b):
    cut = {k: v[b : b + 1] for k, v in vars(targets).items() if k != "vehicle"}
    return replace(targets, **cut)


def test_views_of_one_vehicle_move_together():
    targets = replace(random_targets(B=1, V=4), vehicle=torch.tensor([0, 0, 1, 1]))
    keys = [[SampleKey("t", a, "0") for a in ("1", "1", "2", "2")]]
    noisy = NoisyGnss()(targets, keys).T_ref_view.double()
    true = targets.T_ref_view.double()
    for a, b in ((0, 1), (2, 3)):
        torch.testing.assert_close(
            torch.linalg.inv(noisy[0, a]) @ noisy[0, b], torch.linalg.inv(true[0, a]) @ true[0, b]
        )
    assert not torch.allclose(noisy[0, 2], true[0, 2])


def test_the_road_is_where_its_height_says():
    truth = batch(("641", "650"))
    found = ground_plane_range(truth.inputs, ROAD_Y, far_m=1e4)
    on_road = truth.targets.valid & ((truth.targets.points_view[..., 1] - ROAD_Y).abs() < 1e-3)
    assert on_road.float().mean() > 0.1
    torch.testing.assert_close(found[on_road], truth.targets.range_m[on_road], rtol=1e-3, atol=1e-3)
    above = truth.inputs.rays[..., 1] < 0
    assert (ground_plane_range(truth.inputs, ROAD_Y, 25.0)[above] == 25.0).all()


def test_the_ground_baseline_learns_the_height_of_the_sensor():
    truth = batch(("641", "650"))
    statistics = TrainingStatistics()
    statistics.update(truth.targets)
    assert statistics.ground_below() == pytest.approx(ROAD_Y, abs=0.06)  # layers of 10 cm
    prediction = GroundPlaneBaseline(statistics)(truth.inputs)
    summary = summarise(*score_batch(prediction, truth.targets, truth.keys))
    assert summary["range/abs_rel"] < 0.35
    assert summary["pose/translation_m/median"] == pytest.approx(22.2, abs=0.1)  # |(3, 22)|: it knows no pose
