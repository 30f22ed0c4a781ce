"""Clouds: closed forms, brute force, masks, heights, and what cooperation adds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from support.random_views import perfect_prediction, random_targets

from coop3d.evaluation import points as module
from coop3d.evaluation import score_batch, summarise
from coop3d.evaluation.points import (
    SENSOR_HEIGHT_M,
    TRUNCATE_M,
    Cloud,
    bev_iou,
    cloud_scores,
    sample_clouds,
    voxel_subsample,
)
from coop3d.types import SampleKey


def cloud(*points) -> Cloud:
    return Cloud(np.array(points, np.float32).reshape(-1, 3))


def plane(height_above_road: float = 0.0, size: int = 40) -> np.ndarray:
    """A level grid, 1 m apart: rows of a road seen from the sensor."""
    x, z = np.meshgrid(np.arange(size) - size / 2 + 0.05, np.arange(size) + 0.05)
    y = np.full_like(x, SENSOR_HEIGHT_M - height_above_road)
    return np.stack([x, y, z], -1).reshape(-1, 3).astype(np.float32)


def test_by_hand():
    """True points at 0, 10; predicted at 0.3 from the first, and one 50 m off."""
    s = cloud_scores(cloud((0.3, 0, 0), (50, 0, 0)), cloud((0, 0, 0), (10, 0, 0))).every
    assert (s.predicted, s.true) == (2, 2)
    assert s.accuracy_m == pytest.approx((0.3 + TRUNCATE_M) / 2, abs=1e-6)
    assert s.completeness_m == pytest.approx((0.3 + TRUNCATE_M) / 2, abs=1e-6)
    assert s.chamfer_m == pytest.approx((s.accuracy_m + s.completeness_m) / 2)
    assert [s.precision_20cm, s.precision_50cm, s.precision_1m] == [0, 0.5, 0.5]
    assert [s.recall_20cm, s.fscore_20cm, s.fscore_50cm] == [0, 0, 0.5]


def test_precision_and_recall_are_not_exchanged():
    s = cloud_scores(cloud((0, 0, 0)), cloud((0, 0, 0), (10, 0, 0), (20, 0, 0), (30, 0, 0))).every
    assert (s.precision_50cm, s.recall_50cm, s.fscore_50cm) == (1, 0.25, 0.4)
    assert (s.accuracy_m, s.completeness_m) == (0, 0.75 * TRUNCATE_M)


@pytest.mark.parametrize("shift", [0.15, 0.4, 0.9, 3.0])
def test_a_plane_moved_along_its_normal(shift):
    s = cloud_scores(Cloud(plane(shift)), Cloud(plane())).filtered
    assert s.accuracy_m == s.completeness_m == pytest.approx(shift, abs=1e-5)
    assert s.fscore_20cm == float(shift < 0.2)
    assert s.fscore_50cm == float(shift < 0.5)
    assert s.fscore_1m == float(shift < 1)


def test_against_brute_force(monkeypatch):
    monkeypatch.setattr(module, "QUERIES", 10**9)
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-8, 8, (700, 3)).astype(np.float32) for _ in range(2))
    A, B = Cloud(a), Cloud(b)
    distances = cdist(A.points.astype(float), B.points.astype(float))
    s = cloud_scores(A, B).every
    assert s.accuracy_m == pytest.approx(np.minimum(distances.min(1), TRUNCATE_M).mean(), abs=1e-6)
    assert s.completeness_m == pytest.approx(np.minimum(distances.min(0), TRUNCATE_M).mean(), abs=1e-6)
    assert s.precision_50cm == pytest.approx((distances.min(1) < 0.5).mean())
    assert s.recall_1m == pytest.approx((distances.min(0) < 1).mean())


def test_thinned_queries_estimate_the_same_numbers():
    rng = np.random.default_rng(1)
    a, b = (rng.uniform(-20, 20, (40_000, 3)).astype(np.float32) for _ in range(2))
    A, B = Cloud(a), Cloud(b)
    assert len(A.queries) <= module.QUERIES < len(A.points)
    full = np.minimum(B.tree.query(A.points)[0], TRUNCATE_M)
    assert A.distances_to(B).mean() == pytest.approx(full.mean(), rel=0.02)


def test_voxels_keep_one_point_each_whatever_the_density():
    rng = np.random.default_rng(2)
    points = rng.uniform(-1, 1, (20_000, 3)).astype(np.float32)
    kept = voxel_subsample(points, 0.25)
    assert len(kept) == 8**3
    assert len(np.unique(np.floor(kept / 0.25), axis=0)) == 8**3
    np.testing.assert_array_equal(kept, voxel_subsample(points, 0.25))
    first = {tuple(c): k for k, c in reversed(list(enumerate(np.floor(points / np.float32(0.25)))))}
    np.testing.assert_array_equal(np.sort(kept[:, 0]), np.sort(points[list(first.values()), 0]))
    far = np.array([[1e9, 0, -1e9], [-1e9, 3, 1e9], [1e9, 0, -1e9]], np.float32)
    assert len(voxel_subsample(far)) == 2


def test_height_is_counted_from_the_road_and_filters_the_points_that_ask():
    tree_top = np.array([[0, SENSOR_HEIGHT_M - 6.0, 5]], np.float32)
    ditch = np.array([[1, SENSOR_HEIGHT_M + 1.5, 5]], np.float32)
    good = plane()
    s = cloud_scores(Cloud(np.concatenate([good, tree_top, ditch])), Cloud(good))
    assert s.every.predicted == len(good) + 2
    assert s.filtered.predicted == len(good)
    assert s.every.precision_50cm < s.filtered.precision_50cm == 1
    # 4.15 m is in, its partner at 4.25 m is not, and is found nevertheless
    low, high = plane(4.15), plane(4.25)
    assert cloud_scores(Cloud(high), Cloud(low)).filtered.recall_20cm == 1


@pytest.mark.parametrize(("height", "counts"), [(-1.1, 0), (-0.9, 1), (0, 1), (3, 1), (4.1, 1), (4.3, 0)])
def test_height_band(height, counts):
    """y points down, so a wall is at smaller y than the road."""
    truth = Cloud(np.concatenate([plane(), plane(height)[:1] - [300, 0, 0]]).astype(np.float32))
    assert cloud_scores(Cloud(plane()), truth).filtered.true == len(plane()) + counts


def test_bev_by_hand():
    """Cells of 0.5 m: {(0, 0), (2, 0)} against {(0, 0), (4, 0)}; a point 70 m away is outside."""
    a = np.array([[0.1, 0, 0.1], [0.4, 5, 0.4], [1.2, 0, 0.2], [70, 0, 0]], np.float32)
    b = np.array([[0.3, -2, 0.2], [2.2, 0, 0.2], [0, 0, -70]], np.float32)
    assert bev_iou(a, b) == pytest.approx(1 / 3)
    assert bev_iou(a, a) == 1
    assert math.isnan(bev_iou(a[3:], b[2:]))
    edge = np.array([[59.999, 0, 0], [-59.999, 0, 0], [0, 0, 59.999], [0, 0, -59.999]], np.float32)
    assert bev_iou(edge, edge[:2]) == pytest.approx(0.5)


def test_an_empty_prediction_is_counted_and_an_empty_truth_is_not():
    s = cloud_scores(cloud(), Cloud(plane())).every
    assert (s.accuracy_m, s.completeness_m, s.fscore_1m, s.precision_1m, s.bev_iou) == (5, 5, 0, 0, 0)
    empty = cloud_scores(Cloud(plane()), cloud())
    assert math.isnan(empty.every.fscore_1m)
    assert math.isnan(empty.filtered.chamfer_m)
    only_high = cloud_scores(Cloud(plane()), Cloud(plane(8)))
    assert math.isnan(only_high.filtered.fscore_1m)
    assert only_high.every.fscore_1m == 0


def test_perfect_fused_cloud_and_gain():
    targets = random_targets(B=2, V=3, H=20, W=30)
    perfect = perfect_prediction(targets)
    for fused, alone in sample_clouds(perfect, targets):
        s = fused.every
        assert (s.accuracy_m, s.completeness_m) == pytest.approx((0, 0), abs=1e-5)
        assert (s.fscore_20cm, s.bev_iou) == (1, 1)
        assert alone.every.precision_20cm == 1
        assert alone.every.recall_50cm < 0.7  # a third of the points, by chance near some others
        assert alone.every.true == fused.every.true
    keys = [[SampleKey("s", f"c{v}", f"{b}") for v in range(3)] for b in range(2)]
    s = summarise(*score_batch(perfect, targets, keys, points=True))
    pairs = sample_clouds(perfect, targets)
    gain = np.mean([f.every.recall_50cm - a.every.recall_50cm for f, a in pairs])
    assert s["gain/recall_50cm"] == pytest.approx(gain)
    assert s["gain/recall_50cm"] > 0.3
    assert s["gain/completeness_m"] < 0  # metres: less is better


def test_a_misplaced_vehicle_costs_precision():
    targets = random_targets(B=1, V=2, H=20, W=30)
    perfect = perfect_prediction(targets)
    moved = perfect.trans.clone()
    moved[:, 1, 1] += 100
    fused, alone = sample_clouds(replace(perfect, trans=moved), targets)[0]
    assert alone.every.precision_50cm == 1
    assert fused.every.precision_50cm == pytest.approx(0.5, abs=0.1)
    assert fused.every.recall_50cm == pytest.approx(alone.every.recall_50cm)


def test_reference_alone_from_a_prediction_of_its_own():
    targets = random_targets(B=1, V=2, H=20, W=30)
    perfect = perfect_prediction(targets)
    single = replace(
        perfect,
        **{
            name: getattr(perfect, name)[:, :1]
            for name in ("rays", "distance", "trans", "quat_xyzw", "confidence", "mask_logits", "origins")
        },
    )
    joint = sample_clouds(perfect, targets)[0]
    assert sample_clouds(perfect, targets, single)[0] == joint
    worse = replace(single, distance=single.distance * 2)
    assert sample_clouds(perfect, targets, worse)[0][0] == joint[0]
    assert sample_clouds(perfect, targets, worse)[0][1].every.precision_50cm < 0.9


def test_only_points_that_can_be_judged_count():
    """Unknown range on a surface is neither right nor wrong; a surface in the sky is wrong."""
    targets = random_targets(B=1, V=1, H=10, W=10, valid_fraction=1.1)
    targets.valid[0, 0, :5] = False  # surfaces without range
    targets.range_m[0, 0, :5] = math.nan
    perfect = perfect_prediction(targets)  # says 3 m there
    assert sample_clouds(perfect, targets)[0][0].every.precision_20cm == 1
    targets.non_ambiguous[0, 0, :5] = False  # sky now, but the prediction says surface
    targets.mask_known[0, 0, :5] = True
    s = sample_clouds(perfect, targets)[0][0].every
    assert s.predicted == pytest.approx(100, abs=5)
    assert s.precision_20cm < 0.6
    targets.mask_known[0, 0, :5] = False
    assert sample_clouds(perfect, targets)[0][0].every.precision_20cm == 1


def test_the_border_of_the_ground_plan_is_in_its_last_cell():
    """In float32 59.999998 + 60 is 120, a cell behind the last."""
    border = np.array([[59.999998, 0, 0], [0, 0, 59.999998]], np.float32)
    assert module.bev_iou(border, border) == 1


def test_one_vehicle_no_metres_no_points():
    targets = random_targets(B=2, V=1, H=6, W=6)
    fused, alone = sample_clouds(perfect_prediction(targets), targets)[0]
    assert fused.every.fscore_20cm == 1
    assert math.isnan(alone.every.fscore_20cm)
    targets = replace(random_targets(B=2, V=2, H=6, W=6), is_metric=torch.tensor([False, True]))
    targets.valid[1] = False
    for fused, alone in sample_clouds(perfect_prediction(targets), targets):
        assert math.isnan(fused.every.fscore_20cm)
        assert math.isnan(alone.every.bev_iou)


def test_large_images_are_thinned_in_both_clouds(monkeypatch):
    targets = random_targets(B=1, V=2, H=24, W=32)
    monkeypatch.setattr(module, "MAX_PIXELS", 2 * 24 * 32 // 4)
    fused, _ = sample_clouds(perfect_prediction(targets), targets)[0]
    assert fused.every.fscore_20cm == 1
    assert fused.every.true <= 2 * 12 * 16
