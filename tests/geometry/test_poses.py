"""Transforms, quaternions and alignment against scipy and hand-made cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from coop3d.geometry import (
    compose_points,
    horn,
    invert_rigid,
    make_rigid,
    matrix_to_quat,
    quat_conjugate,
    quat_multiply,
    quat_to_matrix,
    rotation_angle,
    rotation_from_vector,
    transform_points,
    yaw_rotation,
)
from coop3d.geometry.transforms import skew

RNG = np.random.default_rng(0)


def random_rigid(n: int) -> np.ndarray:
    return make_rigid(Rotation.random(n, random_state=1).as_matrix(), RNG.normal(size=(n, 3)) * 30)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_inverse_and_points(convert):
    T = convert(random_rigid(4))
    p = convert(RNG.normal(size=(4, 7, 3)))
    np.testing.assert_allclose(
        np.asarray(invert_rigid(T) @ T), np.broadcast_to(np.eye(4), (4, 4, 4)), atol=1e-12
    )
    moved = np.asarray(transform_points(T, p))
    homogeneous = np.concatenate([np.asarray(p), np.ones((4, 7, 1))], -1)
    np.testing.assert_allclose(moved, np.einsum("bij,bnj->bni", np.asarray(T), homogeneous)[..., :3])


@given(st.floats(1e-9, np.pi))
@settings(max_examples=50, deadline=None)
def test_rotation_angle_stays_accurate_near_zero_and_pi(angle):
    R = Rotation.from_rotvec(angle * np.array([0.6, 0.0, 0.8])).as_matrix()
    assert rotation_angle(R) == pytest.approx(angle, rel=1e-6, abs=1e-9)


ANGLES = (0.0, 1e-30, 1e-8, 1e-4, 1e-2, 0.0999, 0.1001, 1.0, np.pi - 1e-3, 5.0)  # 0.1: where the series ends
AXIS = np.array([0.48, -0.6, 0.64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotation_vectors_against_scipy_and_the_matrix_exponential(dtype):
    w = torch.tensor(np.outer(ANGLES, AXIS), dtype=dtype)
    rounding = 8 * torch.finfo(dtype).eps
    found = rotation_from_vector(w)
    np.testing.assert_allclose(found, Rotation.from_rotvec(w.double().numpy()).as_matrix(), atol=rounding)
    np.testing.assert_allclose(found, torch.linalg.matrix_exp(skew(w)), atol=4 * rounding)
    off_diagonal = found - torch.diag_embed(torch.diagonal(found, dim1=-2, dim2=-1))
    np.testing.assert_allclose(off_diagonal[2], skew(w[2]), rtol=1e-7)  # relative: nothing is lost beside 1


@pytest.mark.parametrize("angle", ANGLES)
def test_the_derivative_of_a_rotation_by_its_vector(angle):
    w = torch.tensor(angle * AXIS, requires_grad=True)
    assert torch.autograd.gradcheck(rotation_from_vector, (w,), eps=1e-6, atol=1e-8, rtol=1e-7)
    single = w.detach().float().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(rotation_from_vector, single).double()
    torch.testing.assert_close(
        jacobian, torch.autograd.functional.jacobian(rotation_from_vector, w), rtol=0, atol=1e-5
    )


def test_yaw_turns_forward_to_the_right():
    np.testing.assert_allclose(yaw_rotation(np.pi / 2)[:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-12)


def test_quaternions_against_scipy():
    R1, R2 = Rotation.random(64, random_state=2), Rotation.random(64, random_state=3)
    q1, q2 = (torch.from_numpy(R.as_quat()).reshape(4, 16, 4) for R in (R1, R2))
    for found, expected in (
        (q1, R1),
        (quat_multiply(q1, q2), R1 * R2),
        (quat_conjugate(q1), R1.inv()),
    ):
        np.testing.assert_allclose(quat_to_matrix(found).flatten(0, 1), expected.as_matrix(), atol=1e-12)


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0], [0, 0, 0]])
def test_matrix_to_quat_at_half_turns_and_identity(axis):
    R = Rotation.from_rotvec(np.pi * np.array(axis, float)).as_matrix()
    q = matrix_to_quat(torch.from_numpy(R))
    np.testing.assert_allclose(quat_to_matrix(q).numpy(), R, atol=1e-9)
    assert q[3] >= 0


def test_matrix_to_quat_round_trip():
    R = torch.from_numpy(Rotation.random(500, random_state=4).as_matrix())
    torch.testing.assert_close(quat_to_matrix(matrix_to_quat(R)), R, atol=1e-10, rtol=0)


@pytest.mark.parametrize("points", [3, 50])
def test_alignment_recovers_a_known_similarity(points):
    R, scale, t = Rotation.random(random_state=5).as_matrix(), 2.5, np.array([3.0, -7.0, 11.0])
    src = RNG.normal(size=(points, 3))
    found = horn(src, scale * src @ R.T + t)
    assert found.scale == pytest.approx(scale)
    np.testing.assert_allclose(found.R, R, atol=1e-9)
    np.testing.assert_allclose(found.apply(src), scale * src @ R.T + t, atol=1e-9)


def test_alignment_never_mirrors_and_is_optimal_under_noise():
    src = RNG.normal(size=(40, 3))
    mirrored = src * [1, 1, -1]
    assert np.linalg.det(horn(src, mirrored).R) == pytest.approx(1.0)
    noisy = src @ Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix().T
    noisy = noisy + 0.05 * RNG.normal(size=src.shape)
    R_scipy, _ = Rotation.align_vectors(noisy - noisy.mean(0), src - src.mean(0))
    np.testing.assert_allclose(horn(src, noisy).R, R_scipy.as_matrix(), atol=1e-7)


def test_degenerate_alignment_is_refused():
    line = np.outer(np.arange(5.0), [1, 2, 3])
    with pytest.raises(ValueError, match="undefined"):
        horn(line, line + 1)
    with pytest.raises(ValueError, match="N >= 3"):
        horn(np.zeros((2, 3)), np.zeros((2, 3)))


def test_compose_points_by_hand():
    """R (o + s d ray) + s t with a quarter turn to the right: forward becomes right."""
    quat = torch.tensor([[[0.0, np.sin(np.pi / 4), 0.0, np.cos(np.pi / 4)]]], dtype=torch.float64)
    rays = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).view(1, 1, 1, 1, 3)
    origins = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64).view(1, 1, 1, 1, 3)
    points = compose_points(
        rays,
        torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64),
        quat,
        torch.tensor([[[1.0, 0.0, 4.0]]], dtype=torch.float64),
        torch.tensor([10.0], dtype=torch.float64),
        origins,
    )
    torch.testing.assert_close(points.flatten(), torch.tensor([32.0 + 10.0, 0.5, 40.0], dtype=torch.float64))
