"""Alignment of needles: exact data, outliers, an independent covariance, and how honest its own covariance is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.alignment import umeyama

from coop3d.geometry import make_rigid
from coop3d.geometry.ray_alignment import PointNoise, RayPoints, _Pair, align, level_rotation
from coop3d.geometry.ray_bundle import Bundle


def pose(yaw_deg: float, tilt_deg: tuple[float, float], t: tuple[float, float, float]) -> torch.Tensor:
    """T_a_b with roll and pitch: vehicles on different slopes."""
    R = Rotation.from_euler("yxz", [yaw_deg, *tilt_deg], degrees=True).as_matrix()
    return make_rigid(torch.from_numpy(R), torch.tensor(t, dtype=torch.float64)).float()


def needles(points: torch.Tensor, generator: torch.Generator) -> RayPoints:
    """Points of one vehicle seen by cameras up to 2 m from its centre."""
    origins = 2 * torch.rand(points.shape, generator=generator) - 1
    offsets = points - origins
    range_m = offsets.norm(dim=-1)
    return RayPoints(origins, offsets / range_m[:, None], range_m)


def scene(T_a_b: torch.Tensor, count: int = 60, seed: int = 0) -> tuple[RayPoints, RayPoints]:
    """The same points seen by both, 5 to 60 m away, all around and up to 10 m high."""
    g = torch.Generator().manual_seed(seed)
    azimuth, distance = 2 * np.pi * torch.rand(count, generator=g), 5 + 55 * torch.rand(count, generator=g)
    in_b = torch.stack(
        [distance * azimuth.sin(), 2 - 10 * torch.rand(count, generator=g), distance * azimuth.cos()], dim=-1
    )
    in_a = in_b @ T_a_b[:3, :3].T + T_a_b[:3, 3]
    return needles(in_a, g), needles(in_b, g)


def spoil(points: RayPoints, noise: PointNoise, g: torch.Generator) -> RayPoints:
    """Noise as `PointNoise` describes it."""
    across = noise.angle * torch.randn(points.rays.shape, generator=g)
    rays = points.rays + across - (across * points.rays).sum(-1, keepdim=True) * points.rays
    longer = torch.exp(noise.log_range * torch.randn(points.range_m.shape, generator=g))
    return RayPoints(points.origins, rays / rays.norm(dim=-1, keepdim=True), points.range_m * longer)


def errors(T: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Metres, degrees."""
    turn = Rotation.from_matrix((T[:3, :3].T @ truth[:3, :3]).double().numpy()).magnitude()
    return float((T[:3, 3] - truth[:3, 3]).norm()), float(np.degrees(turn))


@pytest.mark.parametrize("yaw", [-170.0, -91.0, 0.0, 4.0, 90.0, 180.0])
@pytest.mark.parametrize("tilt", [(0.0, 0.0), (6.0, -4.0)])
def test_exact_matches_give_the_exact_pose_on_slopes_too(yaw, tilt):
    truth = pose(yaw, tilt, (12.0, -1.5, 20.0))
    a, b = scene(truth)
    # As good as no prior on the tilt; everything else is exact.
    found = align(a, b, torch.ones(60), PointNoise(), tilt=1e3)
    metres, degrees = errors(found.T_a_b, truth)
    assert metres < 2e-3
    assert degrees < 2e-3
    assert float(found.support) == pytest.approx(60, abs=1e-2)


@pytest.mark.parametrize("tilt", [0.02, 0.5])
def test_without_matches_the_prior_alone_levels_the_vehicles(tilt):
    start, level = (pose(50.0, tilted, (12.0, -1.5, 20.0)) for tilted in ((6.0, -4.0), (0.0, 0.0)))
    a, b = (RayPoints(*(x.double() for x in points)) for points in scene(start))
    R, t = start[None, :3, :3].double(), start[None, :3, 3].double()
    bundle = Bundle(a, b, torch.zeros(60).double(), PointNoise(), tilt, R, t)
    for _ in range(3):
        bundle.step()
    torch.testing.assert_close(bundle.R[0, :, 1], torch.tensor([0.0, 1.0, 0.0]).double(), atol=1e-6, rtol=0)
    assert errors(make_rigid(bundle.R[0], bundle.t[0]), level.double())[1] < 1.0


def test_seventy_per_cent_of_wrong_matches_do_no_harm():
    truth, noise = pose(85.0, (3.0, -2.0), (15.0, 0.5, 18.0)), PointNoise(angle=0.015, log_range=0.15)
    g = torch.Generator().manual_seed(1)
    a, b = scene(truth, 200)
    a, b = spoil(a, noise, g), spoil(b, noise, g)
    wrong = torch.arange(140)
    b = RayPoints(b.origins, *(x.index_copy(0, wrong, x[wrong.roll(17)]) for x in (b.rays, b.range_m)))
    metres, degrees = errors(align(a, b, torch.ones(200), noise).T_a_b, truth)
    assert metres < 1.0
    assert degrees < 1.5


def test_weights_decide_which_of_two_poses_wins():
    first, second = pose(10.0, (0, 0), (5.0, 0, 9.0)), pose(-60.0, (0, 0), (-8.0, 0, 12.0))
    (a1, b1), (a2, b2) = scene(first, 40), scene(second, 60, seed=3)
    a, b = (RayPoints(*(torch.cat(x) for x in zip(p, q, strict=True))) for p, q in ((a1, a2), (b1, b2)))
    for heavy, truth in ((slice(0, 40), first), (slice(40, 100), second)):
        weights = torch.full((100,), 0.2)
        weights[heavy] = 1.0
        assert errors(align(a, b, weights, PointNoise()).T_a_b, truth)[0] < 0.1


def test_needles_beat_points():
    """The reason for the whole module: range errors of 25 % hurt a least-squares fit of points far more."""
    noise = PointNoise(angle=0.01, log_range=0.25)
    ours, points = [], []
    for seed in range(20):
        g = torch.Generator().manual_seed(100 + seed)
        truth = pose(40.0 + 10 * seed, (2.0, -1.0), (10.0, 0.5, 15.0))
        a, b = scene(truth, 80, seed)
        a, b = spoil(a, noise, g), spoil(b, noise, g)
        ours.append(errors(align(a, b, torch.ones(80), noise).T_a_b, truth)[0])
        fit = umeyama(b.points.numpy(), a.points.numpy(), with_scale=False)
        points.append(float(np.linalg.norm(fit.t - truth[:3, 3].numpy())))
    assert np.median(ours) < 0.35 * np.median(points), (np.median(ours), np.median(points))


def test_mahalanobis_distance_against_the_explicit_covariance():
    noise, truth = (
        PointNoise(angle=0.02, log_range=0.3, floor_m=0.15),
        pose(50.0, (4.0, 1.0), (7.0, 0.3, -5.0)),
    )
    g = torch.Generator().manual_seed(2)
    a, b = scene(truth, 12)
    a, b = spoil(a, noise, g), spoil(b, noise, g)
    R, t = truth[None, :3, :3], truth[None, :3, 3]
    pair = _Pair.of(a, b, torch.ones(12), noise)
    e = pair.residual(R, t)
    found = pair.squared_distance(R, t)[0]
    for m in range(12):
        C = np.zeros((3, 3))
        for ray, r in ((R[0] @ b.rays[m], b.range_m[m]), (a.rays[m], a.range_m[m])):
            d, r = ray.double().numpy(), float(r)
            across = (0.02 * r) ** 2 + 0.15**2
            C += across * np.eye(3) + ((0.3 * r) ** 2 - (0.02 * r) ** 2) * np.outer(d, d)
        residual = e[0, m].double().numpy()
        assert float(found[m]) == pytest.approx(residual @ np.linalg.solve(C, residual), rel=1e-3)


def test_its_covariance_is_honest():
    """Errors over many draws, in units of the claimed standard deviation, spread as one."""
    noise, truth = PointNoise(angle=0.01, log_range=0.1, floor_m=0.05), pose(30.0, (0, 0), (6.0, 0.2, 14.0))
    scores = []
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        a, b = scene(truth, 60, seed)
        found = align(spoil(a, noise, g), spoil(b, noise, g), torch.ones(60), noise, tilt=1e3)
        error = (found.T_a_b[:3, 3] - truth[:3, 3]).double()
        scores.append(float(error @ torch.linalg.solve(found.covariance[3:, 3:].double(), error)) / 3)
    assert 0.4 < np.mean(scores) < 2.5, np.mean(scores)


def test_the_same_matches_give_the_same_pose_and_too_few_none():
    a, b = scene(pose(10.0, (0, 0), (1.0, 0, 9.0)))
    first, again = (align(a, b, torch.ones(60), PointNoise(), seed=4).T_a_b for _ in range(2))
    assert torch.equal(first, again)
    with pytest.raises(ValueError, match="1 matches, expected at least 2"):
        align(a, b, torch.eye(60)[0], PointNoise())
    with pytest.raises(ValueError, match=r"PointNoise\.angle is 0"):
        PointNoise(angle=0.0)


def test_level_rotation_turns_forward_to_the_right():
    forward = torch.tensor([0.0, 0.0, 1.0])
    right = level_rotation(torch.tensor(np.pi / 2)) @ forward
    torch.testing.assert_close(right, torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
