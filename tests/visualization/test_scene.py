"""Scenes: where points lie, which are drawn, what is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.analytic_panoramas import batch, prediction

from coop3d.types import CoopBatch, FactoredPrediction
from coop3d.visualization import OrientedBox, PointSet, Scene, lidar_cloud, scene_from_prediction, upright


def scene_of(sample: CoopBatch, predicted: FactoredPrediction | None = None, **options) -> Scene:
    return scene_from_prediction(sample.inputs, sample.targets, predicted, sample.keys, **options)


def on_a_surface(points: np.ndarray, tolerance_m: float) -> np.ndarray:
    """Which points ([N, 3] in the reference frame, which is the world here) lie on the road or a box."""
    from support.analytic_panoramas import BOXES, ROAD_Y

    outside = np.maximum(BOXES[:, None, 0] - points, points - BOXES[:, None, 1])  # [boxes, N, 3]
    distance = np.abs(outside.max(axis=-1)).min(axis=0)
    return np.minimum(distance, np.abs(points[:, 1] - ROAD_Y)) < tolerance_m


@pytest.mark.parametrize(
    ("opencv", "viewer"),
    [([1, 0, 0], [1, 0, 0]), ([0, 1, 0], [0, 0, -1]), ([0, 0, 1], [0, 1, 0]), ([2, -3, 5], [2, 5, 3])],
)
def test_upright_axes(opencv, viewer):
    np.testing.assert_array_equal(upright(np.array(opencv, float)), viewer)


def test_true_points_lie_on_the_street_and_exact_predictions_coincide_with_them():
    sample = batch(("641", "650", "660"))
    scene = scene_of(sample, prediction(sample, noise=0.0, shift_m=0.0))
    for view in scene.views:
        assert view.truth is not None
        assert view.predicted is not None
        kept = view.predicted.points[view.predicted.kept]
        assert on_a_surface(view.truth.points, 1e-3).all()  # float32 at 150 m
        assert on_a_surface(kept, 2e-3).all()
        assert np.nanmax(view.predicted.error_m) < 2e-3
        np.testing.assert_allclose(view.T_ref_view_pred, view.T_ref_view_true, atol=1e-5)


def test_error_is_the_distance_between_predicted_and_true_points():
    sample = batch()
    scene = scene_of(sample, prediction(sample, noise=0.0, shift_m=0.8))
    errors = [view.predicted.error_m[view.predicted.kept] for view in scene.views]
    np.testing.assert_allclose(errors[0], 0, atol=2e-3)
    np.testing.assert_allclose(errors[1], 0.8, atol=2e-3)


def test_budget_holds_and_the_seed_decides():
    sample = batch(width=504)
    predicted = prediction(sample)
    first, again, other = (scene_of(sample, predicted, max_points=4000, seed=s) for s in (0, 0, 1))
    assert 3500 < sum(len(c.points) for c in first.clouds) <= 4000
    for a, b in zip(first.clouds, again.clouds, strict=True):
        np.testing.assert_array_equal(a.points, b.points)
    assert not np.array_equal(first.clouds[0].points, other.clouds[0].points)


def test_far_surfaces_keep_a_larger_share_of_their_pixels():
    sample = batch(("641",), width=504)
    everything, thinned = (scene_of(sample, max_points=n).views[0].truth.range_m for n in (10**6, 4000))
    shares = [np.mean((r > 30) & (r < 100)) for r in (everything, thinned)]
    assert shares[1] > 1.8 * shares[0]


def test_spacing_is_the_pixel_s_footprint_when_nothing_is_left_out():
    sample = batch(("641",))
    cloud = scene_of(sample, max_points=10**6).views[0].truth
    np.testing.assert_allclose(cloud.spacing_m(), 2 * np.pi / 252 * cloud.range_m, rtol=0.02)


def test_sky_is_not_kept_and_unseen_pixels_are_not_there():
    sample = batch(("641",))
    scene = scene_of(sample, prediction(sample))
    cloud = scene.views[0].predicted
    assert (~cloud.kept).sum() > 100
    covered = int(sample.targets.covered.sum())
    assert len(cloud.points) <= covered
    assert cloud.error_m is not None
    assert np.isnan(cloud.error_m[~cloud.kept]).all()


def test_ground_is_found_where_it_is():
    sample = batch()
    assert scene_of(sample, prediction(sample, noise=0.1)).ground_height() == pytest.approx(-1.9, abs=0.1)


def test_four_cameras_are_found_where_they_are():
    from support.analytic_panoramas import CAMERAS

    cameras = scene_of(batch(("641",))).views[0].rig_cameras
    order = np.lexsort(CAMERAS.T), np.lexsort(cameras[:, 0].T)
    np.testing.assert_allclose(cameras[order[1], 0], CAMERAS[order[0]], atol=1e-3)
    forward = cameras[cameras[:, 0, 2].argmax(), 1]
    np.testing.assert_allclose(forward, [0, 0, 1], atol=0.15)


def test_data_alone_and_prediction_alone():
    sample = batch()
    alone = scene_of(sample)
    assert all(v.predicted is None and v.truth is not None for v in alone.views)
    blind = scene_from_prediction(sample.inputs, None, prediction(sample), sample.keys)
    assert all(v.truth is None and v.predicted is not None for v in blind.views)
    assert "True range" not in blind.views[0].images
    with pytest.raises(ValueError, match="needs targets, a prediction, or both"):
        scene_from_prediction(sample.inputs, None, None, sample.keys)


def test_a_diverged_prediction_leaves_no_points_and_no_pose():
    sample = batch()
    broken = replace(prediction(sample), scale=torch.tensor([float("nan")]))
    scene = scene_of(sample, broken)
    assert all(len(v.predicted.points) == 0 and v.T_ref_view_pred is None for v in scene.views)
    assert scene.ground_height() == pytest.approx(-1.9, abs=0.1)  # from the truth


@pytest.mark.parametrize("vehicles", [1, 7])
def test_any_number_of_vehicles(vehicles):
    sample = batch(tuple(str(k) for k in range(vehicles)))
    assert [v.name for v in scene_of(sample, prediction(sample)).views] == [str(k) for k in range(vehicles)]


def test_views_of_one_vehicle_get_different_names():
    sample = batch(("641", "641"))
    assert [v.name for v in scene_of(sample).views] == ["641 view 0", "641 view 1"]


def test_point_sets_refuse_what_would_corrupt_a_page():
    good = {"rgb": np.zeros((2, 3), np.uint8), "range_m": np.ones(2, np.float32), "kept": np.ones(2, bool)}
    with pytest.raises(ValueError, match="NaN or infinity"):
        PointSet(points=np.full((2, 3), np.nan, np.float32), **good)
    with pytest.raises(ValueError, match="same length"):
        PointSet(points=np.zeros((3, 3), np.float32), **good)


def test_error_at_the_true_pose_is_the_error_of_geometry_alone():
    sample = batch()
    shifted = scene_of(sample, prediction(sample, noise=0.0, shift_m=0.8)).views[1].predicted
    np.testing.assert_allclose(shifted.error_m[shifted.kept], 0.8, atol=2e-3)
    np.testing.assert_allclose(shifted.error_true_pose_m[shifted.kept], 0, atol=2e-3)
    noisy = scene_of(sample, prediction(sample, noise=0.05, shift_m=0.0)).views[1].predicted
    np.testing.assert_allclose(noisy.error_true_pose_m[noisy.kept], noisy.error_m[noisy.kept], atol=2e-3)


def test_a_point_knows_its_pixel():
    sample = batch(("641", "650"), width=504)
    for v, view in enumerate(scene_of(sample, prediction(sample), max_points=8000).views):
        for cloud, points in (
            (view.truth, sample.targets.points_ref[0, v].numpy()),
            (view.predicted, prediction(sample).points_ref[0, v].numpy()),
        ):
            column, row = cloud.pixel.T
            np.testing.assert_array_equal(points[row, column].astype(np.float32), cloud.points)


def test_a_lidar_sweep_stands_at_the_true_pose():
    T = np.array([[0, 0, 1, 5], [0, 1, 0, 0], [-1, 0, 0, 7], [0, 0, 0, 1.0]])
    points = np.array([[0, 0, 10], [1, 2, 3], [np.nan, 0, 0], [np.inf, 1, 1]])
    cloud = lidar_cloud(points, T)
    np.testing.assert_allclose(cloud.points, [[15, 0, 7], [8, 2, 6]])
    np.testing.assert_allclose(cloud.range_m, [10, np.sqrt(14)], rtol=1e-6)
    assert cloud.kept.all()
    assert len(lidar_cloud(np.ones((500, 3)), T, max_points=100).points) == 100
    assert len(lidar_cloud(np.zeros((0, 3)), T).points) == 0


def test_box_corners_are_where_its_axes_say():
    turned = np.array(
        [[0, 0, 1, 10], [0, 1, 0, 1], [-1, 0, 0, 20], [0, 0, 0, 1.0]]
    )  # forward is the frame's x
    corners = OrientedBox(name="a", T_ref_box=turned, half_extent_m=np.array([1.0, 0.7, 2.4])).corners()
    np.testing.assert_allclose(corners.min(axis=0), [7.6, 0.3, 19])
    np.testing.assert_allclose(corners.max(axis=0), [12.4, 1.7, 21])
    np.testing.assert_allclose(corners[0b111], [12.4, 1.7, 19])  # right of forward x is -z


@pytest.mark.parametrize(
    ("T", "half", "message"),
    [
        (np.eye(3), np.ones(3), r"T_ref_box is \(3, 3\)"),
        (np.eye(4), np.ones(2), r"half_extent_m \(2,\)"),
        (np.eye(4), np.array([1, -1, 1.0]), "no negative extent"),
        (np.full((4, 4), np.nan), np.ones(3), "finite numbers"),
    ],
)
def test_boxes_refuse_what_is_no_box(T, half, message):
    with pytest.raises(ValueError, match=message):
        OrientedBox(name="a", T_ref_box=T, half_extent_m=half)


def test_pixels_need_a_column_and_a_row():
    good = {"rgb": np.zeros((2, 3), np.uint8), "range_m": np.ones(2, np.float32), "kept": np.ones(2, bool)}
    with pytest.raises(ValueError, match=r"expected \(2, 2\)"):
        PointSet(points=np.zeros((2, 3), np.float32), pixel=np.zeros(2, np.int32), **good)
