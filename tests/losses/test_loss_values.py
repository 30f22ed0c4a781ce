"""Each term against a number it did not compute: by hand, or by a slow twin in MapAnything's order."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.random_views import perfect_prediction, random_prediction, random_targets
from torch.nn import functional as F

from coop3d.geometry import EquirectangularCamera, PinholeCamera
from coop3d.losses import (
    GradientMatchingTerm,
    LogScaleTerm,
    MaskTerm,
    MetricPointsTerm,
    MetricPoseTerm,
    MetricRangeTerm,
    PointsTerm,
    PoseTerm,
    RangeTerm,
    RayTerm,
    ScaleTerm,
    Scene,
    ViewPointsTerm,
    log_map,
    masked_mean,
    robust,
)


def rho(e: float) -> float:
    """MapAnything's penalty, written out."""
    return 3 * ((e * e / 0.0025 / 1.5 + 1) ** 0.25 - 1)


def ell(x: np.ndarray) -> np.ndarray:
    n = np.linalg.norm(x)
    return x / n * math.log(1 + n)


def test_robust_by_hand():
    assert robust(torch.tensor(0.05**2), 0.05, 0.5).item() == pytest.approx(
        3 * ((5 / 3) ** 0.25 - 1), rel=1e-6
    )
    assert robust(torch.tensor(9.0), 1.0, 1.0).item() == pytest.approx(math.sqrt(10) - 1)  # pseudo-Huber
    assert robust(torch.tensor(0.0), 0.05, 0.5).item() == 0


def test_log_map_keeps_direction_and_is_the_identity_at_the_origin():
    torch.testing.assert_close(log_map(torch.tensor([3.0, 4.0])), torch.tensor([0.6, 0.8]) * math.log(6))
    x = torch.zeros(3, requires_grad=True)
    log_map(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3))


def test_masked_mean_of_nothing_is_zero_with_zero_gradient():
    x = torch.ones(2, 3, requires_grad=True)
    mean = masked_mean(x, torch.tensor([[True, False, True], [False] * 3]))
    mean.sum().backward()
    assert mean.tolist() == [1, 0]
    assert x.grad.tolist() == [[0.5, 0, 0.5], [0, 0, 0]]


def test_normalised_terms_against_a_slow_twin():
    """Per pixel, in MapAnything's order: predictions and origins divided by s, then by the mean norm N_pr."""
    targets = random_targets(B=1)
    prediction = random_prediction(targets).detach()
    s = prediction.scale[0].item()
    pixels = targets.valid[0].nonzero().tolist()
    p_pred, p_true, x_pred, x_true, r_pred, r_true = [], [], [], [], [], []
    for v, y, x in pixels:
        o, ray = prediction.origins[0, v, y, x].numpy(), prediction.rays[0, v, y, x].numpy()
        view = o / s + prediction.distance[0, v, y, x].item() * ray
        R = prediction.T_ref_view[0, v, :3, :3].numpy()
        x_pred.append(view)
        p_pred.append(R @ view + prediction.trans[0, v].numpy())
        r_pred.append(prediction.distance[0, v, y, x].item())
        view = o + targets.range_m[0, v, y, x].item() * targets.rays[0, v, y, x].numpy()
        T = targets.T_ref_view[0, v].numpy()
        x_true.append(view)
        p_true.append(T[:3, :3] @ view + T[:3, 3])
        r_true.append(targets.range_m[0, v, y, x].item())
    n_pr = np.mean([np.linalg.norm(p) for p in p_pred])
    n_gt = np.mean([np.linalg.norm(p) for p in p_true])

    def vectors(a, b):
        return [rho(np.linalg.norm(ell(p / n_pr) - ell(q / n_gt))) for p, q in zip(a, b, strict=True)]

    scene = Scene(prediction, targets)
    conf = [prediction.confidence[0, v, y, x].item() for v, y, x in pixels]
    points = np.mean([c * e - 0.2 * math.log(c) for c, e in zip(conf, vectors(p_pred, p_true), strict=True)])
    range_ = np.mean(
        [rho(math.log1p(a / n_pr) - math.log1p(b / n_gt)) for a, b in zip(r_pred, r_true, strict=True)]
    )
    assert RangeTerm()(scene).per_sample.item() == pytest.approx(range_, rel=1e-9)
    assert PointsTerm()(scene).per_sample.item() == pytest.approx(points, rel=1e-9)
    assert ViewPointsTerm()(scene).per_sample.item() == pytest.approx(
        np.mean(vectors(x_pred, x_true)), rel=1e-9
    )
    scale = rho(math.log1p(n_pr * s) - math.log1p(n_gt))
    assert ScaleTerm()(scene).per_sample.item() == pytest.approx(scale, rel=1e-9)
    assert LogScaleTerm()(scene).per_sample.item() == pytest.approx(abs(math.log(n_pr * s / n_gt)), rel=1e-9)


def test_metric_range_penalises_a_factor():
    targets = random_targets()
    perfect = perfect_prediction(targets)
    longer = replace(perfect, distance=perfect.distance * 1.1)
    value = MetricRangeTerm()(Scene(longer, targets)).per_sample
    torch.testing.assert_close(value, torch.full((2,), rho(math.log(1.1)), dtype=torch.float64))
    not_metric = replace(targets, is_metric=torch.tensor([True, False]))
    assert MetricRangeTerm()(Scene(longer, not_metric)).per_sample[1] == 0


def test_metric_points_by_hand():
    """One pixel straight ahead, 9 m true, 19 m predicted: the log map compresses log(10) to log(20)."""
    targets = random_targets(B=1, V=1, H=1, W=1, valid_fraction=1)
    ahead = torch.tensor([0.0, 0.0, 1.0]).double().expand(1, 1, 1, 1, 3)
    zero = torch.zeros_like(ahead)
    targets = replace(targets, rays=ahead, origins=zero, range_m=torch.full((1, 1, 1, 1), 9.0).double())
    prediction = replace(
        perfect_prediction(targets), distance=torch.full((1, 1, 1, 1), 19 / 7, dtype=torch.float64)
    )
    value = MetricPointsTerm()(Scene(prediction, targets)).per_sample.item()
    assert value == pytest.approx(rho(math.log(2)), rel=1e-9)


def test_pose_rotation_by_hand_and_sign_of_the_quaternion():
    targets = random_targets(B=1, V=1)
    perfect = perfect_prediction(targets)
    half = math.radians(30) / 2  # 30 degrees about y
    turned = torch.tensor([[[0.0, math.sin(half), 0.0, math.cos(half)]]], dtype=torch.float64)
    expected = rho(2 * math.sin(math.radians(30) / 4))  # |q - 1| of a rotation by theta is 2 sin(theta / 4)
    for q in (turned, -turned):
        scene = Scene(replace(perfect, quat_xyzw=q), targets)
        assert MetricPoseTerm()(scene).per_sample.item() == pytest.approx(expected, rel=1e-9)


def test_metric_translation_by_hand():
    targets = random_targets(B=1, V=2)
    perfect = perfect_prediction(targets, scale=2.0)
    moved = perfect.trans.clone()
    moved[0, 1, 0] += 1.5  # times the scale: 3 m
    scene = Scene(replace(perfect, trans=moved), targets)
    value = MetricPoseTerm(rotation_weight=0)(scene).per_sample.item()
    assert value == pytest.approx((math.sqrt(10) - 1) / 2, rel=1e-9)  # mean of view 0 (right) and view 1
    pairwise = MetricPoseTerm(rotation_weight=0, pairwise=True)(scene).per_sample.item()
    assert pairwise == pytest.approx(3 * (math.sqrt(10) - 1) / 4, rel=1e-9)  # (0, 1) and (1, 0) are wrong too


def test_normalised_translation_by_hand():
    targets = random_targets(B=1, V=2)
    scene = Scene(random_prediction(targets).detach(), targets)
    p, t = scene.prediction, scene.targets
    n_pr, n_gt = scene.pred_norm.item(), scene.true_norm.item()
    expected = [
        rho((p.trans[0, v] * p.scale[0] / n_pr - t.T_ref_view[0, v, :3, 3] / n_gt).norm().item())
        for v in (0, 1)
    ]
    assert PoseTerm(rotation_weight=0)(scene).per_sample.item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_translation_up_to_scale_needs_valid_pixels_metric_one_does_not():
    targets = random_targets(valid_fraction=0)
    scene = Scene(random_prediction(targets).detach(), targets)
    assert PoseTerm(rotation_weight=0, pairwise=True)(scene).per_sample.eq(0).all()
    assert MetricPoseTerm(rotation_weight=0)(scene).per_sample.gt(0).all()


def test_relative_poses_do_not_see_a_common_motion_of_all_views():
    """T_i^-1 T_j is unchanged by G T_i, G T_j: with V = 3, 6 of the 9 pairwise entries stay exact."""
    targets = random_targets(B=1, V=3)
    perfect = perfect_prediction(targets, scale=1.0)
    shift = torch.tensor([3.0, 0.0, 0.0]).double()
    scene = Scene(replace(perfect, trans=perfect.trans + shift), targets)
    value = MetricPoseTerm(rotation_weight=0, pairwise=True)(scene).per_sample.item()
    assert value == pytest.approx((math.sqrt(10) - 1) * 3 / 9, rel=1e-9)


def test_scale_terms_reach_only_the_scale():
    targets = random_targets()
    for term in (ScaleTerm(), LogScaleTerm()):
        prediction = random_prediction(targets)
        term(Scene(prediction, targets)).per_sample.sum().backward()
        assert prediction.scale.grad.abs().min() > 0
        assert all(getattr(prediction, name).grad is None for name in ("distance", "trans", "rays"))


def test_log_scale_of_a_scale_twice_too_large():
    targets = random_targets()
    targets = replace(targets, origins=torch.zeros_like(targets.origins))
    perfect = perfect_prediction(targets)
    scene = Scene(replace(perfect, scale=perfect.scale * 2), targets)
    torch.testing.assert_close(LogScaleTerm()(scene).per_sample, torch.full((2,), math.log(2)).double())


def test_rays_compare_the_predicted_ones_where_a_model_has_them():
    targets = random_targets()
    prediction = perfect_prediction(targets)
    assert RayTerm()(Scene(prediction, targets)).per_sample.eq(0).all()
    object.__setattr__(prediction, "predicted_rays", -targets.rays)
    torch.testing.assert_close(
        RayTerm()(Scene(prediction, targets)).per_sample, torch.full((2,), rho(2.0)).double()
    )


@pytest.mark.parametrize("pos_weight", [1.0, 2.5])
def test_mask_is_bce_where_known(pos_weight):
    targets = random_targets(B=1)
    prediction = random_prediction(targets).detach()
    known = targets.mask_known
    expected = F.binary_cross_entropy_with_logits(
        prediction.mask_logits[known],
        targets.non_ambiguous[known].double(),
        pos_weight=torch.tensor(pos_weight, dtype=torch.float64),
    )
    value = MaskTerm(pos_weight=pos_weight)(Scene(prediction, targets))
    torch.testing.assert_close(value.per_sample[0], expected)
    torch.testing.assert_close(value.statistics["gt_mask_mean"], targets.non_ambiguous[known].double().mean())
    torch.testing.assert_close(
        value.statistics["pred_mask_mean"], prediction.mask_logits[known].sigmoid().mean()
    )


def circle(source: list[list[int]], error: list[list[float]], camera=None) -> Scene:
    """A dense panorama whose predicted range is exp(error) times the true one."""
    e = torch.tensor(error, dtype=torch.float64)[None, None]
    H, W = e.shape[2:]
    camera = EquirectangularCamera(W, H, 60.0) if camera is None else camera
    rays = torch.from_numpy(camera.rays().copy())[None, None]
    targets = random_targets(B=1, V=1, H=H, W=W, valid_fraction=1)
    targets = replace(targets, rays=rays, source=torch.tensor(source, dtype=torch.uint8)[None, None])
    perfect = perfect_prediction(targets)
    return Scene(replace(perfect, distance=perfect.distance * torch.exp(e)), targets)


def test_gradient_matching_wraps_around_the_seam():
    scene = circle([[0] * 8], [[0.0] * 7 + [1.0]])  # the last column differs from both neighbours
    value = GradientMatchingTerm(levels=1)(scene).per_sample.item()
    assert value == pytest.approx(2 / 8, abs=1e-12)


def test_gradient_matching_does_not_wrap_a_photograph():
    scene = circle([[0] * 8], [[0.0] * 7 + [1.0]], PinholeCamera.from_hfov(8, 1, 100.0))
    value = GradientMatchingTerm(levels=1)(scene).per_sample.item()
    assert value == pytest.approx(1 / 7, abs=1e-12)


def test_gradient_matching_never_crosses_a_camera_border():
    error = [[0.0, 0.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0]]
    assert GradientMatchingTerm()(circle([[0, 0, 1, 1, 0, 0, 0, 0]], error)).per_sample.item() == 0
    assert GradientMatchingTerm()(circle([[0] * 8], error)).per_sample.item() > 0


def test_gradient_matching_rows_do_not_wrap_and_levels_add_up():
    scene = circle([[0]] * 3, [[0.0], [1.0], [3.0]])  # a single column: vertical pairs only
    assert GradientMatchingTerm(levels=1)(scene).per_sample.item() == pytest.approx((1 + 2) / 2)
    assert GradientMatchingTerm(levels=2)(scene).per_sample.item() == pytest.approx(1.5 + 3)


def test_gradient_matching_is_for_dense_samples():
    scene = circle([[0] * 4], [[0.0, 1.0, 0.0, 1.0]])
    sparse = Scene(scene.prediction, replace(scene.targets, is_synthetic=torch.tensor([False])))
    assert GradientMatchingTerm()(sparse).per_sample.item() == 0
    assert GradientMatchingTerm(synthetic_only=False)(sparse).per_sample.item() > 0
