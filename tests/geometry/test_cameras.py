"""Camera models against closed forms and OpenCV; projection inverts rays, seams and poles included."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coop3d.geometry import CylindricalCamera, EquirectangularCamera, PinholeCamera, pixel_centres

PINHOLE = PinholeCamera(800, 600, 335.64, 340.0, 390.5, 310.25)  # off-centre, non-square
EQUIRECTANGULAR = EquirectangularCamera(1008, 252, 90.0)
TILTED = EquirectangularCamera(720, 180, 70.0, -15.0)
SPHERE = EquirectangularCamera(360, 180, 180.0)
CYLINDER = CylindricalCamera(1008, 252, 90.0)
ALL = [PINHOLE, EQUIRECTANGULAR, TILTED, SPHERE, CYLINDER]
IDS = ["pinhole", "equirectangular", "tilted", "full sphere", "cylinder"]


@pytest.mark.parametrize("camera", ALL, ids=IDS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_projection_inverts_rays_everywhere(camera, library):
    rays = np.array(camera.rays())
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1.0, atol=1e-12)
    points = rays * np.random.default_rng(0).uniform(0.1, 200, rays.shape[:2])[..., None]
    if library == "torch":
        uv, inside = (x.numpy() for x in camera.project(torch.from_numpy(points)))
    else:
        uv, inside = camera.project(points)
    assert inside.all()
    np.testing.assert_allclose(uv, pixel_centres(camera.width, camera.height), atol=1e-8)


def test_pinhole_against_opencv_half_pixel_included():
    points = np.random.default_rng(0).uniform([-3, -2, 2], [3, 2, 9], (50, 3))
    K = PINHOLE.matrix.copy()
    K[:2, 2] -= 0.5  # OpenCV counts from the centre of the first pixel
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, None)[0][:, 0]
    np.testing.assert_allclose(PINHOLE.project(points)[0] - 0.5, expected, atol=1e-9)


def test_pinhole_sees_nothing_behind_it():
    uv, inside = PINHOLE.project(np.array([[0.0, 0.0, -1.0], [0.1, 0.1, 0.0], [0.0, 0.0, 1.0]]))
    assert inside.tolist() == [False, False, True]
    assert np.isnan(uv[:2]).all()


def test_the_image_of_a_pinhole_is_half_open():
    camera = PinholeCamera(4, 2, 1.0, 1.0, 2.0, 1.0)
    _, inside = camera.project(
        np.array([[-2, -1, 1.0], [2, 0, 1.0], [0, 1, 1.0], [-2.1, 0, 1.0], [0, -1.1, 1.0]])
    )
    assert inside.tolist() == [True, False, False, False, False]


def test_carla_intrinsics_from_field_of_view():
    camera = PinholeCamera.from_hfov(800, 600, 100.0)
    assert camera.fx == pytest.approx(335.639852470912, abs=1e-9)  # OPV2V's own intrinsic
    assert (camera.cx, camera.cy) == (400.0, 300.0)
    assert PinholeCamera.from_matrix(PINHOLE.matrix, 800, 600) == PINHOLE


def test_range_per_z_is_one_over_the_cosine_to_the_axis():
    uv = np.array([[390.5, 310.25], [0.5, 0.5], [799.5, 599.5]])
    np.testing.assert_allclose(PINHOLE.range_per_z(uv), 1 / PINHOLE.directions(uv)[:, 2])


@pytest.mark.parametrize(
    ("point", "u"),
    [((0, 0, 1), 504), ((1, 0, 0), 756), ((-1, 0, 0), 252), ((1, 0, 1), 630), ((-1e-9, 0, -1), 0)],
)
@pytest.mark.parametrize("camera", [EQUIRECTANGULAR, CYLINDER])
def test_azimuth_forward_right_left_and_seam(camera, point, u):
    uv, inside = camera.project(np.array([point], float))
    assert inside.all()
    assert uv[0, 0] == pytest.approx(u, abs=1e-5)
    assert uv[0, 1] == pytest.approx(126.0)  # horizon in the middle row border


@pytest.mark.parametrize("z", [-1.0, -1e-300])
@pytest.mark.parametrize("x", [0.0, -0.0])
def test_seam_lies_in_the_image_from_both_sides(x, z):
    uv, inside = EQUIRECTANGULAR.project(np.array([[x, 0.0, z]]))
    assert inside.all()
    assert 0 <= uv[0, 0] < 1008


def test_rows_are_linear_in_elevation_or_its_tangent():
    rays = EQUIRECTANGULAR.rays()[:, 504]
    elevation = np.degrees(np.arcsin(-rays[:, 1]))
    np.testing.assert_allclose(elevation, 45 - (np.arange(252) + 0.5) * 90 / 252, atol=1e-9)
    rays = CYLINDER.rays()[:, 504]
    tangent = -rays[:, 1] / np.hypot(rays[:, 0], rays[:, 2])
    np.testing.assert_allclose(tangent, 1 - (np.arange(252) + 0.5) * 2 / 252, atol=1e-12)


def test_poles_of_the_full_sphere():
    uv, inside = SPHERE.project(np.array([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert inside.tolist() == [
        True,
        False,
        False,
    ]  # straight up is row 0; straight down is row H; no direction
    np.testing.assert_allclose(uv[:2], [[180, 0], [180, 180]])


def test_points_outside_the_band_are_outside():
    _, inside = EQUIRECTANGULAR.project(np.array([[0, -1.1, 1.0], [0, 1.1, 1.0], [0, 0.9, 1.0]]))
    assert inside.tolist() == [False, False, True]
    _, inside = CYLINDER.project(np.array([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]))
    assert not inside.any()


@given(st.floats(-3.14, 3.14), st.floats(-0.78, 0.78), st.floats(0.01, 1e4))
@settings(max_examples=50, deadline=None)
def test_panorama_round_trip_of_arbitrary_points(azimuth, elevation, distance):
    direction = np.array(
        [np.cos(elevation) * np.sin(azimuth), -np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
    )
    for camera in (EQUIRECTANGULAR, CYLINDER):
        uv, inside = camera.project(distance * direction)
        assert inside
        np.testing.assert_allclose(camera.directions(uv), direction, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EquirectangularCamera(100, 50, 190.0), "vertical field of view 190"),
        (lambda: CylindricalCamera(100, 50, 180.0), "cannot reach the poles"),
        (lambda: EquirectangularCamera(0, 50), "at least 1 x 1"),
        (lambda: PinholeCamera(10, 10, -1.0, 1.0, 5.0, 5.0), "fx, fy > 0"),
        (lambda: PinholeCamera.from_matrix(np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1.0]]), 2, 2), "skew"),
    ],
)
def test_impossible_cameras_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
