"""Fused photographs have one pose per vehicle, which is scored once; what is dense is scored of each photograph."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.analytic_panoramas import batch, prediction
from support.street_photographs import K, fused_batch, fused_prediction

from coop3d.evaluation import per_vehicle, score_batch, summarise


def test_poses_count_once_per_vehicle_and_ranges_once_per_photograph():
    truth, keys = fused_batch(3), fused_batch(3).keys
    p = fused_prediction(truth, shift_m=3.0)
    p = replace(p, pose_support=torch.tensor([0.0, 7.0, 9.0]).repeat_interleave(K)[None])
    rows, samples = score_batch(p, truth.targets, keys)
    summary = summarise(rows, samples)
    assert summary["views"] == 3 * K
    assert summary["pose/count"] == 2
    assert summary["pose/convention/pairs"] == 3
    assert summary["pose/translation_m/median"] == pytest.approx(3.0, abs=1e-4)
    assert summary["pose/sign_flip_pairs"] == 2
    buckets = [summary[f"pose/{b}/count"] for b in ("0-15m", "15-30m", "30-60m")]
    assert sum(buckets) == 2
    scored = [r.view for r in rows if not math.isnan(r.translation_error_m)]
    assert scored == [K, 2 * K]
    assert [r.pose_support for r in rows if not math.isnan(r.pose_support)] == [7.0, 9.0]
    assert all(math.isfinite(r.abs_rel) for r in rows)
    vehicles = per_vehicle(rows)
    assert [round(r.translation_error_m, 3) for r in vehicles[1:]] == [3.0, 3.0]
    assert [r.pose_support for r in vehicles[1:]] == [7.0, 9.0]
    assert math.isnan(vehicles[0].pose_support)
    assert vehicles[1].distance_m == pytest.approx(
        float(truth.targets.T_ref_view[0, K, :3, 3].norm()), rel=1e-5
    )


def test_answers_that_differ_all_count():
    """Views of one vehicle with poses of their own, true or predicted, are questions of their own."""
    truth = fused_batch(2)
    p = fused_prediction(truth)
    trans = p.trans.clone()
    trans[0, K + 2, 0] += 0.1
    rows, samples = score_batch(replace(p, trans=trans), truth.targets, truth.keys)
    assert summarise(rows, samples)["pose/count"] == 2
    T = truth.targets.T_ref_view.clone()
    T[0, :, 0, 3] += 0.01 * torch.arange(2 * K)
    rows, samples = score_batch(p, replace(truth.targets, T_ref_view=T), truth.keys)
    summary = summarise(rows, samples)
    assert summary["pose/count"] == K
    assert summary["pose/convention/pairs"] == K * K


def test_panoramas_count_as_before():
    truth = batch(("641", "650", "659"))
    rows, samples = score_batch(prediction(truth), truth.targets, truth.keys)
    summary = summarise(rows, samples)
    assert summary["pose/count"] == 2
    assert summary["pose/convention/pairs"] == 3
