"""A camera in its vehicle's frame, against scipy's rotations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from coop3d.geometry import Camera, MountedCamera, PinholeCamera, pixel_centres

CAMERA = PinholeCamera(40, 32, 21.0, 25.0, 18.0, 17.0)
TURN = Rotation.from_euler("yxz", [100.0, -7.0, 3.0], degrees=True)


def test_rays_are_those_of_the_camera_turned():
    mounted = MountedCamera(CAMERA, TURN.as_matrix())
    assert isinstance(mounted, Camera)
    assert (mounted.width, mounted.height) == (40, 32)
    expected = TURN.apply(CAMERA.rays().reshape(-1, 3).copy()).reshape(32, 40, 3)
    np.testing.assert_allclose(mounted.rays(), expected, atol=1e-12)
    np.testing.assert_allclose(mounted.directions(pixel_centres(40, 32)), expected, atol=1e-12)
    assert mounted.rays()[16, 18, 0] > 0.9  # what looks 100 degrees to the right looks to the right
    with pytest.raises(ValueError, match="read-only"):
        mounted.rays()[0] = 0


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_projection_inverts_directions_and_sees_nothing_behind(kind):
    mounted = MountedCamera(CAMERA, TURN.as_matrix())
    uv = kind(pixel_centres(40, 32))
    found, inside = mounted.project(7.0 * mounted.directions(uv))
    np.testing.assert_allclose(np.asarray(found), np.asarray(uv), atol=1e-9)
    assert bool(inside.all())
    assert not bool(mounted.project(-mounted.directions(uv))[1].any())


def test_the_matrix_is_copied_and_must_be_a_rotation():
    R = TURN.as_matrix()
    mounted = MountedCamera(CAMERA, R)
    R[:] = 0
    np.testing.assert_allclose(np.linalg.norm(mounted.rays(), axis=-1), 1, atol=1e-12)
    for wrong in (np.diag([1.0, 1.0, -1.0]), 2 * np.eye(3), np.eye(4)):
        with pytest.raises(ValueError, match="expected a 3 x 3 rotation"):
            MountedCamera(CAMERA, wrong)
