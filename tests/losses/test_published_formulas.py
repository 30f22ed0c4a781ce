"""The published formulas against slow twins written from their description, and why two of them are mended."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.random_views import perfect_prediction, random_prediction, random_targets

from coop3d.geometry import EquirectangularCamera, PinholeCamera
from coop3d.losses import (
    GradientMatchingTerm,
    NormalTerm,
    PointsTerm,
    PublishedGradientMatchingTerm,
    PublishedNormalTerm,
    RangeTerm,
    Scene,
    TermValue,
    ViewPointsTerm,
    keep_smallest,
)


def rounded(angle: float) -> float:
    three = math.radians(3)
    return angle**2 / (2 * three) if angle < three else angle - three / 2


def normalised_views(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """[V, H, W, 3] predicted and true view points of the only sample, over their norms; 0 where not valid."""
    pred, true = (
        torch.where(scene.valid[..., None], x.points_view, 0.0)[0].numpy()
        for x in (scene.prediction, scene.targets)
    )
    return pred / scene.pred_norm.item(), true / scene.true_norm.item()


def corner_normal(points: np.ndarray, y: int, x: int, dy: int, dx: int) -> np.ndarray:
    """Normal at pixel (y, x) from its neighbours at dy, dx, on the same side for all four combinations."""
    return dx * dy * np.cross(points[y, x + dx] - points[y, x], points[y + dy, x] - points[y, x])


def test_published_normal_against_a_slow_twin():
    targets = random_targets(B=1, H=4, W=5, valid_fraction=0.8)
    scene = Scene(random_prediction(targets).detach(), targets)
    for v, (p, g) in enumerate(zip(*normalised_views(scene), strict=True)):
        total, cells, valid = 0.0, 0, targets.valid[0, v].numpy()
        for y in range(3):
            for x in range(4):
                angles = []
                for cy, cx, dy, dx in ((0, 0, 1, 1), (0, 1, 1, -1), (1, 0, -1, 1), (1, 1, -1, -1)):
                    cy, cx = y + cy, x + cx
                    if not (valid[cy, cx] and valid[cy, cx + dx] and valid[cy + dy, cx]):
                        continue
                    a, b = corner_normal(p, cy, cx, dy, dx), corner_normal(g, cy, cx, dy, dx)
                    angle = math.atan2(np.linalg.norm(np.cross(a, b)) + 1e-12, a @ b)
                    angles.append(rounded(min(max(angle, math.radians(1)), math.radians(90))))
                total += sum(angles)
                cells += bool(angles)
        ours = PublishedNormalTerm()(scene).per_group[v].item()
        assert ours == pytest.approx(total / (cells * 4 * 5), rel=1e-9)


def test_published_gradient_matching_against_a_slow_twin():
    targets = random_targets(B=1, H=9, W=11, valid_fraction=0.8)
    scene = Scene(random_prediction(targets).detach(), targets)
    for v, (p, g) in enumerate(zip(*normalised_views(scene), strict=True)):
        error = np.sign(p) * np.log1p(np.abs(p)) - np.sign(g) * np.log1p(np.abs(g))
        expected = 0.0
        for step in (1, 2, 4, 8):
            e, valid = error[::step, ::step, 2], targets.valid[0, v].numpy()[::step, ::step]
            across = np.abs(np.diff(e, axis=1))[valid[:, 1:] & valid[:, :-1]].sum()
            expected += (across + np.abs(np.diff(e, axis=0))[valid[1:] & valid[:-1]].sum()) / valid.sum()
        ours = PublishedGradientMatchingTerm()(scene).per_group[v].sum().item()
        assert ours == pytest.approx(expected, rel=1e-9)


def test_published_terms_are_for_dense_samples():
    targets = random_targets(B=1)
    targets = replace(targets, is_synthetic=torch.tensor([False]))
    scene = Scene(random_prediction(targets), targets)
    for term in (
        PublishedNormalTerm(),
        PublishedGradientMatchingTerm(),
        NormalTerm(),
        GradientMatchingTerm(),
    ):
        assert term(scene).per_sample.item() == 0


def test_view_sum_by_hand():
    """Views are added, a view is averaged over the pixels of the whole batch; parts are added."""
    sums = torch.tensor([[[1.0, 10.0], [3.0, 0.0]], [[2.0, 0.0], [0.0, 4.0]]])  # [B, V, K]
    counts = torch.tensor([[[2.0, 5.0], [1.0, 0.0]], [[4.0, 0.0], [0.0, 2.0]]])
    value = TermValue(sums, counts)
    assert value.per_group.tolist() == [[3 / 6, 10 / 5], [3 / 1, 4 / 2]]
    assert value.reduced("view_sum").item() == pytest.approx(0.5 + 2 + 3 + 2)
    assert value.per_sample.tolist() == pytest.approx([4 / 3 + 10 / 5, 2 / 4 + 4 / 2])
    assert value.reduced("sample_mean").item() == pytest.approx((4 / 3 + 2 + 0.5 + 2) / 2)


def test_largest_errors_are_left_out():
    values = torch.arange(40.0).reshape(1, 2, 4, 5)
    mask = torch.ones(1, 2, 4, 5, dtype=torch.bool)
    assert keep_smallest(values, mask, 5).flatten(2).sum(dim=2).tolist() == [[19, 19]]
    assert not keep_smallest(values, mask, 5)[0, 0, 3, 4]
    mask[0, 1].flatten()[3:] = False  # 3 stay: floor(2.85) = 2 of them are kept, the smallest
    kept = keep_smallest(values, mask, 5)[0, 1]
    assert kept.flatten().nonzero().flatten().tolist() == [0, 1]
    mask[0, 1] = False
    mask[0, 1, 2, 2] = True  # one alone is left out, none is none
    assert not keep_smallest(values, mask, 5)[0, 1].any()
    assert keep_smallest(values, mask, 0) is mask
    equal = keep_smallest(torch.zeros(1, 1, 4, 5), torch.ones(1, 1, 4, 5, dtype=torch.bool), 50)
    assert equal.sum() == 10  # as many as asked for even when they tie


@pytest.mark.parametrize("term", [RangeTerm, ViewPointsTerm, PointsTerm])
def test_only_real_samples_lose_their_largest_errors(term):
    targets = random_targets(B=2, H=5, W=8, valid_fraction=1)
    targets = replace(targets, is_synthetic=torch.tensor([True, False]))
    scene = Scene(random_prediction(targets), targets)
    whole, trimmed = term()(scene), term(exclude_top_percent=5)(scene)
    assert whole.counts.squeeze(-1).tolist() == [[40, 40], [40, 40]]
    assert trimmed.counts.squeeze(-1).tolist() == [[40, 40], [38, 38]]
    torch.testing.assert_close(trimmed.per_sample[0], whole.per_sample[0])


def test_points_without_confidence_are_their_geometry():
    targets = random_targets()
    scene = Scene(random_prediction(targets), targets)
    value = PointsTerm(confidence_alpha=None)(scene)
    torch.testing.assert_close(value.per_sample.mean(), PointsTerm()(scene).statistics["geometry"])
    assert "confidence" not in value.statistics


def test_confidence_that_does_not_weigh_leaves_geometry_alone_and_learns_the_penalty():
    targets = random_targets(valid_fraction=1)
    prediction = random_prediction(targets)
    distance = prediction.distance.detach().requires_grad_()
    logit = torch.zeros_like(distance).requires_grad_()
    scene = Scene(replace(prediction, distance=distance, confidence=1 + logit.exp()), targets)
    alone = PointsTerm(confidence_alpha=None)
    geometry, *_ = torch.autograd.grad(alone(scene).per_sample.sum(), distance, retain_graph=True)
    loss = PointsTerm(confidence_alpha=5.0, confidence_weighs=False)(scene).per_sample.sum()
    faithful, by_logit = torch.autograd.grad(loss, [distance, logit], retain_graph=True)
    torch.testing.assert_close(faithful, geometry)
    weighing = PointsTerm(confidence_alpha=5.0)(scene).per_sample.sum()
    weighed, by_logit_weighed = torch.autograd.grad(weighing, [distance, logit])
    assert not torch.allclose(weighed, geometry)
    torch.testing.assert_close(by_logit, by_logit_weighed / 5)  # the same best confidence: alpha / penalty


def plane(tilt_deg: float, rays: torch.Tensor, distance: float) -> torch.Tensor:
    """[..., H, W] range to a plane ``distance`` ahead, turned about the vertical."""
    a = math.radians(tilt_deg)
    normal = torch.tensor([math.sin(a), 0.0, math.cos(a)], dtype=rays.dtype)
    return distance * math.cos(a) / (rays @ normal)


def plane_scene(focal: float, tilt_deg: float) -> tuple[Scene, torch.Tensor]:
    """A plane 10 m ahead, predicted turned by an angle; and the predicted distance, a leaf."""
    camera = PinholeCamera.from_hfov(6, 4, 2 * math.degrees(math.atan(3 / focal)))
    rays = torch.from_numpy(camera.rays().copy())[None, None]
    targets = random_targets(B=1, V=1, H=4, W=6, valid_fraction=1)
    targets = replace(targets, rays=rays, origins=torch.zeros_like(rays), range_m=plane(0, rays, 10.0))
    leaf = plane(tilt_deg, rays, 10.0).requires_grad_()
    return Scene(replace(perfect_prediction(targets, 1.0), distance=leaf), targets), leaf


def angle_deg(term: NormalTerm | PublishedNormalTerm, scene: Scene) -> float:
    """Angle in degrees that a scene of equal angles must have for a term's value."""
    return math.degrees(term(scene).per_sample.item() * 6 + math.radians(1.5))


def test_published_normal_saturates_on_fine_sampling_and_the_mended_one_does_not():
    """Edges of 1/5000 of the scene: an absolute 1e-12 beside products of four edges is all that is left."""
    right, _ = plane_scene(5000, 0.0)
    wrong, published_leaf = plane_scene(5000, 20.0)
    assert angle_deg(PublishedNormalTerm(), right) > 85  # a perfect prediction "is 90 degrees wrong" ...
    assert angle_deg(PublishedNormalTerm(), wrong) == pytest.approx(
        angle_deg(PublishedNormalTerm(), right), abs=1
    )  # ... and a wrong one no more
    coarse, _ = plane_scene(5, 20.0)
    assert angle_deg(PublishedNormalTerm(), coarse) == pytest.approx(20, abs=0.1)
    assert NormalTerm()(right).per_sample.item() < 1e-12
    assert angle_deg(NormalTerm(), wrong) == pytest.approx(20, abs=1e-3)
    PublishedNormalTerm()(wrong).per_sample.sum().backward()
    mended, mended_leaf = plane_scene(5000, 20.0)
    NormalTerm()(mended).per_sample.sum().backward()
    assert mended_leaf.grad.norm() > 100 * published_leaf.grad.norm()


def test_mended_normal_sees_neither_scale_nor_sampling():
    for focal in (5, 500, 50_000):
        scene, _ = plane_scene(focal, 20.0)
        assert angle_deg(NormalTerm(), scene) == pytest.approx(20, abs=1e-2)
        bigger = Scene(replace(scene.prediction, scale=scene.prediction.scale * 7), scene.targets)
        assert angle_deg(NormalTerm(), bigger) == pytest.approx(20, abs=1e-2)


def test_masking_afterwards_gives_nan_and_filling_before_does_not():
    """A sample without valid pixels: its norm is clipped to 1e-8, and 0 * NaN is NaN in the gradient."""
    points = torch.rand(1, 1, 3, 4, 3, requires_grad=True)
    huge = points / 1e-8
    edges = huge[..., 1:, :, :][..., 1:, :] - huge[..., :-1, :, :][..., 1:, :]
    other = huge[..., :-1, 1:, :] - huge[..., :-1, :-1, :]
    normal = torch.linalg.cross(edges, other)
    sine = torch.linalg.cross(normal, normal.detach().roll(1, -2)).norm(dim=-1)
    (0.0 * torch.atan2(sine + 1e-12, normal.sum(dim=-1))).sum().backward()
    assert points.grad.isnan().any()

    targets = random_targets(B=1, valid_fraction=0, dtype=torch.float32)
    prediction = random_prediction(targets)
    for term in (PublishedNormalTerm(), NormalTerm()):
        term(Scene(prediction, targets)).per_sample.sum().backward()
        assert prediction.distance.grad.eq(0).all()


def sideways(column: int) -> Scene:
    """A full circle of equal range; one column is predicted too far, too near and right, the mean unchanged."""
    camera = EquirectangularCamera(64, 3, 30.0)
    rays = torch.from_numpy(camera.rays().copy())[None, None]
    targets = random_targets(B=1, V=1, H=3, W=64, valid_fraction=1)
    targets = replace(
        targets, rays=rays, origins=torch.zeros_like(rays), range_m=torch.full((1, 1, 3, 64), 10.0).double()
    )
    perfect = perfect_prediction(targets)
    distance = perfect.distance.clone()
    distance[..., column] *= torch.tensor([1.5, 0.5, 1.0])
    return Scene(replace(perfect, distance=distance), targets)


def test_gradients_of_z_depend_on_the_heading_and_those_of_range_do_not():
    """Column 15 of 64 looks to the left, where z is almost 0 whatever the range; column 63 looks back."""
    term = GradientMatchingTerm(levels=1)
    left, ahead, behind = sideways(15), sideways(31), sideways(63)
    values = [term(scene).per_sample.item() for scene in (left, ahead, behind)]
    assert values == pytest.approx([values[0]] * 3)
    published = [PublishedGradientMatchingTerm()(s).per_sample.item() for s in (left, ahead, behind)]
    assert published[0] < 0.1 * published[1]
    assert published[2] < 0.9 * published[1]  # a neighbour is missing at the seam
