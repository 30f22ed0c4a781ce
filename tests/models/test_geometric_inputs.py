"""What is done to given geometry before an encoder sees it, against 4 x 4 matrices and by hand."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from coop3d.geometry import invert_rigid, make_rigid, quat_multiply
from coop3d.models import GeometricInputs
from coop3d.models.geometric_inputs import normalised_log_depth, normalised_trans, relative_poses


def test_views_may_lack_anything():
    """A pose is rotation and translation; half of one is none."""
    quat, trans = torch.rand(2, 4), torch.rand(2, 3)
    depth, rays = torch.rand(2, 5, 6, 1), torch.rand(2, 5, 6, 3)
    found = GeometricInputs.from_views(
        [
            {"camera_pose_quats": quat, "camera_pose_trans": trans, "depth_along_ray": depth},
            {"camera_pose_quats": quat, "ray_directions_cam": rays},
            {},
        ]
    )
    assert found.pose_given.tolist() == [[True, False, False]] * 2
    assert found.depth_given.tolist() == [[True, False, False]] * 2
    assert found.ray_dirs_given.tolist() == [[False, True, False]] * 2
    assert torch.equal(found.quat_xyzw[:, 0], quat)
    assert torch.equal(found.trans[:, 0], trans)
    assert torch.equal(found.depth[:, 0], depth[..., 0])
    assert torch.equal(found.ray_dirs[:, 1], rays)
    assert found.is_metric is None
    alone = GeometricInputs.from_views(
        [{"camera_pose_quats": quat, "is_metric_scale": torch.tensor([True, False])}]
    )
    assert alone.quat_xyzw is None
    assert alone.is_metric.tolist() == [[True], [False]]


def test_poses_relative_to_the_first_view_against_matrices():
    """Quaternions of any length and sign: both stay as they come out."""
    rng = np.random.default_rng(0)
    R = Rotation.random(6, random_state=0)
    T = make_rigid(R.as_matrix(), 20 * rng.normal(size=(6, 3))).reshape(2, 3, 4, 4)
    expected = invert_rigid(T[:, :1]) @ T
    quat = torch.from_numpy((R.as_quat() * rng.uniform(-2, 2, (6, 1))).reshape(2, 3, 4))
    given = torch.tensor([[True, True, True], [True, True, False]])
    q_rel, t_rel = relative_poses(quat, torch.from_numpy(T[..., :3, 3].copy()), given)
    np.testing.assert_allclose(t_rel[given], expected[..., :3, 3][given], atol=1e-12)
    np.testing.assert_allclose(
        Rotation.from_quat(q_rel[given]).as_matrix(), expected[..., :3, :3][given], atol=1e-12
    )
    torch.testing.assert_close(quat_multiply(quat[:, :1].expand_as(quat), q_rel)[given], quat[given])
    assert q_rel[1, 2].tolist() == [0, 0, 0, 1]
    assert t_rel[1, 2].tolist() == [0, 0, 0]


def test_depth_over_its_mean_by_hand():
    depth = torch.tensor([[[2.0, 0.0], [4.0, math.nan]], [[8.0, 8.0], [8.0, 8.0]]])[None]
    log_depth, log_mean = normalised_log_depth(depth, torch.tensor([[True, False]]))
    expected = torch.tensor([[math.log(5 / 3), 0.0], [math.log(7 / 3), 0.0]])
    torch.testing.assert_close(log_depth[0, 0, ..., 0], expected)
    assert not log_depth[0, 1].any()
    torch.testing.assert_close(log_mean[0, 0], torch.tensor([math.log(3.0)]))


def test_translations_over_their_mean_length_by_hand():
    """Views that stand where the first does are not counted."""
    trans = torch.tensor([[[0.0, 0.0, 0.0], [0.3, 0.0, 0.4], [0.0, -19.5, 0.0]]])
    unit, log_length = normalised_trans(trans)
    torch.testing.assert_close(unit, trans / 10)
    torch.testing.assert_close(log_length, torch.tensor([[math.log(10.0)]]))
