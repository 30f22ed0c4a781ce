"""Trajectory errors against formulas written out in numpy; gaps, missing library."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.alignment import umeyama
from support.random_views import perfect_prediction, random_targets

from coop3d.evaluation import measured_trajectories, score_batch, summarise
from coop3d.types import SampleKey

pytest.importorskip("evo", reason="extra 'trajectory' is not installed")

from coop3d.evaluation.trajectory import trajectory_errors


def rigid(rotation: Rotation, t) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = rotation.as_matrix(), t
    return T


def drive(n=12, seed=0):
    """A curved drive: poses [4, 4] in the world."""
    rng = np.random.default_rng(seed)
    yaw = np.cumsum(rng.normal(0.05, 0.02, n))
    position = np.cumsum(np.stack([np.sin(yaw), rng.normal(0, 0.05, n), np.cos(yaw)], 1) * 2, axis=0)
    return [rigid(Rotation.from_rotvec([0, y, 0]), p) for y, p in zip(yaw, position, strict=True)]


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


def test_against_formulas():
    rng = np.random.default_rng(1)
    true = drive()
    pred = [T @ rigid(Rotation.from_rotvec(rng.normal(0, 0.02, 3)), rng.normal(0, 0.3, 3)) for T in true]
    p, t = (np.array([T[:3, 3] for T in poses]) for poses in (pred, true))
    motion = [
        np.linalg.inv(np.linalg.inv(true[k]) @ true[k + 1]) @ np.linalg.inv(pred[k]) @ pred[k + 1]
        for k in range(len(true) - 1)
    ]
    ate, aligned, rpe_m, rpe_deg = trajectory_errors(pred, true)
    assert ate == pytest.approx(rms(np.linalg.norm(p - t, axis=1)))
    fitted = umeyama(p, t, with_scale=False).apply(p)
    assert aligned == pytest.approx(rms(np.linalg.norm(fitted - t, axis=1)))
    assert rpe_m == pytest.approx(rms([np.linalg.norm(T[:3, 3]) for T in motion]))
    angles = [np.degrees(Rotation.from_matrix(T[:3, :3]).magnitude()) for T in motion]
    assert rpe_deg == pytest.approx(rms(angles))


def test_constant_offset_is_absolute_error_only():
    true = drive()
    ate, aligned, rpe_m, rpe_deg = trajectory_errors(
        [rigid(Rotation.identity(), [3, 0, 4]) @ T for T in true], true
    )
    assert ate == pytest.approx(5)
    assert (aligned, rpe_m, rpe_deg) == pytest.approx((0, 0, 0), abs=1e-5)


def test_straight_drive_has_no_aligned_error():
    true = [rigid(Rotation.identity(), [0, 0, float(k)]) for k in range(5)]
    ate, aligned, *_ = trajectory_errors(true, true)
    assert ate == 0
    assert math.isnan(aligned)
    standing = [np.eye(4)] * 4
    assert math.isnan(trajectory_errors(standing, standing)[1])


def scenario(frames, error=None):
    """Rows and samples of a scenario with a driving reference and a driving agent, and the world poses of both.

    ``error`` [4, 4] is applied in the reference frame to every predicted pose.
    """
    reference, agent = drive(len(frames), seed=2), drive(len(frames), seed=3)
    targets = random_targets(B=len(frames), V=2, H=2, W=3)
    T = np.stack([np.linalg.inv(r) @ a for r, a in zip(reference, agent, strict=True)])
    targets.T_ref_view[:, 1] = torch.from_numpy(T)
    predicted = targets.T_ref_view.clone()
    if error is not None:
        predicted[:, 1] = torch.from_numpy(error) @ predicted[:, 1]
    prediction = perfect_prediction(replace(targets, T_ref_view=predicted))
    keys = [[SampleKey("town", f"car{v}", f"{f:06d}") for v in range(2)] for f in frames]
    scored = score_batch(prediction, targets, keys, T_world_ref=np.stack(reference))
    return *scored, reference, agent


def test_rows_are_moved_into_the_world():
    error = rigid(Rotation.from_rotvec([0, 0.1, 0]), [0.5, 0, 0])
    rows, samples, reference, agent = scenario(range(69, 89, 2), error)
    (track,), _ = measured_trajectories(rows, samples)
    expected = trajectory_errors(
        [r @ error @ np.linalg.inv(r) @ a for r, a in zip(reference, agent, strict=True)], agent
    )
    assert (track.ate_m, track.ate_aligned_m, track.rpe_m, track.rpe_deg) == pytest.approx(expected, rel=1e-5)
    assert (track.scenario, track.reference_agent, track.agent) == ("town", "car0", "car1")
    assert (track.first_frame, track.poses, track.step) == ("000069", 10, 2)
    perfect, samples, *_ = scenario(range(69, 89, 2))
    (track,), _ = measured_trajectories(perfect, samples)
    assert (track.ate_m, track.ate_aligned_m, track.rpe_m, track.rpe_deg) == pytest.approx((0,) * 4, abs=1e-4)
    summary = summarise(perfect, trajectories=[track])
    assert summary["trajectory/count"] == 1
    assert summary["trajectory/ate_m/median"] == track.ate_m


def test_order_of_rows_does_not_matter_and_gaps_split():
    frames = [2, 4, 6, 8, 20, 22, 24, 40, 42]  # 4 poses, 3 poses, and 2 that are too few
    rows, samples, *_ = scenario(frames)
    tracks, _ = measured_trajectories(rows[::-1], samples)
    assert [(t.first_frame, t.poses, t.step) for t in tracks] == [("000002", 4, 2), ("000020", 3, 2)]
    assert measured_trajectories(rows, samples) == (tracks, "")
    rows, samples, *_ = scenario([10, 20, 30])  # thinned samples
    assert [(t.poses, t.step) for t in measured_trajectories(rows, samples)[0]] == [(3, 10)]
    rows, samples, *_ = scenario([10])
    assert measured_trajectories(rows, samples) == ([], "no vehicle is seen in 3 or more consecutive frames")


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    rows, samples, *_ = scenario(range(4))
    monkeypatch.setitem(sys.modules, "evo", None)
    found, note = measured_trajectories(rows, samples)
    assert found == []
    assert "coop3d[trajectory]" in note
