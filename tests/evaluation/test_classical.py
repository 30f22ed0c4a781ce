"""Classical pose: exact correspondences give the metric pose, noise and outliers do not break it, failure is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.analytic_panoramas import batch

from coop3d.evaluation.classical import (
    ClassicalOptions,
    MatchedRays,
    NoPose,
    RelativePose,
    epipolar_angles,
    relative_pose,
)
from coop3d.evaluation.classical_baseline import ClassicalBaseline, find_features, match
from coop3d.types import ViewInputs

# camera centres of OPV2V's rig in the LiDAR's frame, OpenCV axes: front, right, back, left
CENTRES = np.array([[0.0, 0.9, 3.0], [0.3, 0.1, 0.5], [0.0, 0.4, -1.5], [-0.3, 0.1, 0.5]])


def pose(yaw_deg: float, x: float, z: float) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("y", yaw_deg, degrees=True).as_matrix()
    T[:3, 3] = [x, 0.05, z]
    return T


def rays_to(points: np.ndarray, T: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origins and unit rays of a rig at ``T`` that see the points, each through the camera of its quarter."""
    local = (points - T[:3, 3]) @ T[:3, :3]
    quarter = np.round(np.arctan2(local[:, 0], local[:, 2]) / (np.pi / 2)).astype(int) % 4
    origins = centres[quarter]
    rays = local - origins
    return origins, rays / np.linalg.norm(rays, axis=1, keepdims=True)


def matched(
    T: np.ndarray,
    seed: int,
    n: int = 250,
    outliers: float = 0.0,
    noise: float = 0.0,
    centres=CENTRES,
    ground=0,
) -> MatchedRays:
    rng = np.random.default_rng(seed)
    points = rng.uniform([-30, -6, -30], [30, 1.9, 30], (n, 3))
    points[:ground, 1] = 1.9
    o1, d1 = rays_to(points, np.eye(4), centres)
    o2, d2 = rays_to(points, T, centres)
    d1, d2 = (d + noise * rng.standard_normal(d.shape) for d in (d1, d2))
    d1, d2 = (d / np.linalg.norm(d, axis=1, keepdims=True) for d in (d1, d2))
    wrong = rng.permutation(n)[: int(outliers * n)]
    o2[wrong], d2[wrong] = o2[np.roll(wrong, 1)], d2[np.roll(wrong, 1)]
    return MatchedRays(o1, d1, o2, d2)


def errors(found: RelativePose | NoPose, T: np.ndarray) -> tuple[float, float]:
    assert isinstance(found, RelativePose), found
    R = found.T_ref_other[:3, :3].T @ T[:3, :3]
    return float(np.linalg.norm(found.T_ref_other[:3, 3] - T[:3, 3])), np.degrees(
        Rotation.from_matrix(R).magnitude()
    )


@pytest.mark.parametrize("seed", range(4))
def test_exact_matches_give_the_exact_metric_pose(seed):
    rng = np.random.default_rng(100 + seed)
    T = pose(rng.uniform(-180, 180), rng.uniform(-10, 10), rng.uniform(-20, 20))
    matches = matched(T, seed)
    assert np.abs(epipolar_angles(T, matches)).max() < 1e-9  # float64
    found = relative_pose(matches)
    metres, degrees = errors(found, T)
    assert (metres, degrees) == pytest.approx((0, 0), abs=1e-4)
    assert found.scale_from == "rig"
    assert found.inliers == 250


@pytest.mark.parametrize("outliers", [0.2, 0.5])
def test_noise_and_outliers_leave_it_metric(outliers):
    """1.5 mrad is a tenth of a pixel of a 504-wide panorama; the rig's 2-3 m carry the scale of 20 m."""
    found = []
    for seed in range(5):
        T = pose(37.0 * seed, 4.0, 19.0)
        found.append(errors(relative_pose(matched(T, seed, outliers=outliers, noise=1.5e-3)), T))
    metres, degrees = np.median(found, axis=0)
    assert metres < 0.5
    assert degrees < 0.3


def test_scale_comes_from_the_road_where_all_rays_start_at_one_point():
    T = pose(20.0, 3.0, 12.0)
    found = relative_pose(matched(T, 0, centres=np.zeros((4, 3)), ground=120))
    metres, degrees = errors(found, T)
    assert found.scale_from == "ground"
    assert metres < 0.2
    assert degrees < 0.2


def test_without_road_or_rig_the_length_is_a_stated_guess_in_the_right_direction():
    T = pose(20.0, 3.0, 12.0)
    matches = matched(T, 0, centres=np.zeros((4, 3)))
    matches = matches.take(matches.rays1[:, 1] < 0)  # nothing below the horizon
    found = relative_pose(matches, ClassicalOptions(guessed_distance_m=9.0))
    assert isinstance(found, RelativePose)
    assert found.scale_from == "guess"
    assert np.linalg.norm(found.T_ref_other[:3, 3]) == pytest.approx(9.0)
    direction = found.T_ref_other[:3, 3] / 9.0
    assert direction @ T[:3, 3] / np.linalg.norm(T[:3, 3]) > 0.999


@pytest.mark.parametrize("count", [0, 5, 200])
def test_chance_matches_are_no_pose(count):
    rng = np.random.default_rng(0)
    random = [rng.standard_normal((count, 3)) for _ in range(2)]
    rays = [r / np.linalg.norm(r, axis=1, keepdims=True) for r in random]
    origins = CENTRES[rng.integers(0, 4, count)]
    assert isinstance(relative_pose(MatchedRays(origins, rays[0], origins, rays[1])), NoPose)


def test_two_panoramas_of_one_place_are_matched_and_placed():
    """The analytic street seen twice by one vehicle: no displacement, every feature matches itself."""
    inputs = batch(("641",), width=504).inputs
    twice = ViewInputs(**{k: v.repeat(1, 2, *[1] * (v.ndim - 2)) for k, v in vars(inputs).items()})
    prediction, notes = ClassicalBaseline().solve(twice)
    assert notes == [("rig",)]
    assert prediction.T_ref_view[0, 1, :3, 3].norm() < 0.02
    again, _ = ClassicalBaseline().solve(twice)
    assert torch.equal(prediction.trans, again.trans)


def test_rigs_in_one_place_are_told_from_any_translation_by_their_parallel_rays():
    """Turned by 20 degrees on the spot: every t satisfies the epipolar constraint, and none is the answer but 0."""
    generator = np.random.default_rng(0)
    rays = generator.normal(size=(200, 3)) * [1.0, 0.2, 1.0]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    origins = CENTRES[generator.integers(4, size=200)]
    turn = pose(20, 0, 0)[:3, :3]
    found = relative_pose(MatchedRays(origins @ turn.T, rays @ turn.T, origins, rays))
    assert isinstance(found, RelativePose)
    np.testing.assert_allclose(found.T_ref_other[:3, :3], turn, atol=1e-3)
    assert (found.T_ref_other[:3, 3] == 0).all()
    assert found.scale_from == "rig"


def test_features_are_found_across_the_seam_and_not_where_no_camera_sees():
    view = batch(("641",), width=504)
    rays, origins = (x[0, 0].double().numpy() for x in (view.inputs.rays, view.inputs.origins))
    rgb = (view.inputs.image[0, 0].numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)
    plain = find_features(rgb, rays, origins)
    turned = find_features(
        np.roll(rgb, 100, axis=1), np.roll(rays, 100, axis=1), np.roll(origins, 100, axis=1)
    )
    pairs = match(plain, turned)
    assert len(pairs.rays1) > 0.5 * len(plain.rays)  # stripes and tiles repeat: many have no clear match
    behind = np.abs(np.arctan2(pairs.rays1[:, 0], -pairs.rays1[:, 2])) < np.radians(5)
    assert behind.sum() > 5  # at the seam of the one, in the middle of the other
    agree = np.einsum("ij,ij->i", pairs.rays1, pairs.rays2)
    assert np.median(np.degrees(np.arccos(np.clip(agree, -1, 1)))) < 0.1
    assert (plain.rays[:, 1] < 0.7).all()  # below 0.62 no camera looks; a pixel is 0.012
    assert len(find_features(np.zeros_like(rgb), rays, origins).rays) == 0


def test_failure_is_noted_and_answered_with_the_reference_pose():
    inputs = batch(("641", "650"), width=112).inputs
    dark = replace(inputs, image=torch.zeros_like(inputs.image))
    prediction, notes = ClassicalBaseline().solve(dark)
    assert notes == [("failed: too few matches",)]
    torch.testing.assert_close(prediction.T_ref_view[0, 1], torch.eye(4))
    with pytest.raises(ValueError, match="origins"):
        ClassicalBaseline()(replace(inputs, origins=None))
