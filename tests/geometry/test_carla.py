"""CARLA's conventions against hand-derived axes and published example values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from coop3d.geometry.carla import (
    B_CV_CARLA,
    carla_points_to_opencv,
    carla_pose_to_matrix,
    carla_poses_to_matrices,
    matrix_to_carla_pose,
    opencv_points_to_carla,
    opencv_to_carla,
    pose_to_opencv,
)

angle = st.floats(-179, 179)


@pytest.mark.parametrize(
    ("pose", "forward", "right", "up"),
    [  # axes of the actor in world CARLA coordinates, from CARLA's documentation of yaw, pitch and roll
        ([0, 0, 0, 0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]),
        ([0, 0, 0, 0, 90, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1]),  # yaw +90 turns right
        ([0, 0, 0, 0, 0, 90], [0, 0, 1], [0, 1, 0], [-1, 0, 0]),  # pitch +90 looks up
        ([0, 0, 0, 90, 0, 0], [1, 0, 0], [0, 0, -1], [0, 1, 0]),  # roll +90 dips the right side
    ],
)
def test_axes_of_single_rotations(pose, forward, right, up):
    R = carla_pose_to_matrix(pose)[:3, :3]
    np.testing.assert_allclose(R, np.stack([forward, right, up], axis=1), atol=1e-12)


def test_opencv_axes_of_a_turned_actor():
    """x right, y down, z forward: an actor yawed +90 degrees looks along CARLA's y, OpenCV's x."""
    T = pose_to_opencv([1, 2, 3, 0, 90, 0])
    np.testing.assert_allclose(T[:3, 2], [1, 0, 0], atol=1e-12)  # forward
    np.testing.assert_allclose(T[:3, 1], [0, 1, 0], atol=1e-12)  # down
    np.testing.assert_allclose(T[:3, 3], [2, -3, 1], atol=1e-12)
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)


@given(angle, angle, st.floats(-89, 89))
@settings(max_examples=60, deadline=None)
def test_order_of_rotations_against_scipy(roll, yaw, pitch):
    expected = Rotation.from_euler("ZYX", [yaw, -pitch, -roll], degrees=True).as_matrix()
    np.testing.assert_allclose(carla_pose_to_matrix([0, 0, 0, roll, yaw, pitch])[:3, :3], expected, atol=1e-9)
    back = matrix_to_carla_pose(carla_pose_to_matrix([4, 5, 6, roll, yaw, pitch]))
    np.testing.assert_allclose(back, [4, 5, 6, roll, yaw, pitch], atol=1e-6)


@pytest.mark.parametrize("pitch", [-90.0, 90.0])
def test_straight_up_or_down_all_of_the_turn_is_called_yaw(pitch):
    T = carla_pose_to_matrix([4, 5, 6, 25, 130, pitch])
    back = matrix_to_carla_pose(T)
    np.testing.assert_allclose(carla_pose_to_matrix(back), T, atol=1e-7)
    assert (back[3], back[5]) == (0, pitch)


def test_published_example_gives_the_published_camera_offset():
    """Frame 000069 of agent 4805: LiDAR to camera0 is about (-3.0, 0, 0.9) in CARLA axes."""
    cords = [141.3507, -388.6426, 1.0411, 0.0759, 174.1805, 0.2069]
    lidar = [144.33, -388.94, 1.93, 0.078, 174.18, 0.21]
    extrinsic = np.linalg.inv(carla_pose_to_matrix(cords)) @ carla_pose_to_matrix(lidar)
    np.testing.assert_allclose(extrinsic[:3, 3], [-3.0, 0.0, 0.9], atol=0.02)


def test_points_and_poses_convert_consistently():
    rng = np.random.default_rng(0)
    p = rng.normal(size=(5, 3))
    pose = [3.0, -2.0, 1.0, 5.0, 130.0, -12.0]
    T = carla_pose_to_matrix(pose)
    moved = carla_points_to_opencv(p @ T[:3, :3].T + T[:3, 3])
    T_cv = pose_to_opencv(pose)
    np.testing.assert_allclose(carla_points_to_opencv(p) @ T_cv[:3, :3].T + T_cv[:3, 3], moved, atol=1e-12)
    np.testing.assert_allclose(opencv_points_to_carla(carla_points_to_opencv(p)), p)
    np.testing.assert_allclose(opencv_to_carla(T_cv), T, atol=1e-12)
    assert np.linalg.det(B_CV_CARLA) == pytest.approx(-1.0)


@pytest.mark.parametrize("bad", [[1, 2, 3], [0, 0, 0, 0, 0, np.nan], [[0] * 6]])
def test_malformed_pose_is_refused(bad):
    with pytest.raises(ValueError, match="six finite numbers"):
        carla_pose_to_matrix(bad)


def test_many_poses_at_once_equal_one_by_one():
    poses = np.random.default_rng(0).uniform(-170, 170, (4, 5, 6))
    together = carla_poses_to_matrices(poses)
    for i in np.ndindex(4, 5):
        np.testing.assert_allclose(together[i], carla_pose_to_matrix(poses[i]), atol=1e-13)  # round-off
