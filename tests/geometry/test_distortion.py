"""Lens distortion against OpenCV; its inverse to round-off; no direction folds back into the image."""

import cv2
import numpy as np
import pytest
import torch

from coop3d.geometry import PinholeCamera, pixel_centres

MODELS = {
    "barrel": (-0.28, 0.07, 0.0012, -0.0008),
    "barrel that folds": (-0.3, 0.0, 0.0, 0.0, 0.0),
    "pincushion": (0.15, 0.02, -0.001, 0.002, 0.01),
    "rational": (0.9, 0.3, 0.0005, -0.0004, 0.02, 1.2, 0.5, 0.06),
}


def camera(name, width=800, height=600):
    return PinholeCamera(width, height, 520.0, 515.0, 392.5, 305.25, MODELS[name])


def opencv(cam):
    K = cam.matrix.copy()
    K[:2, 2] -= 0.5  # OpenCV counts from the centre of the first pixel
    return K, np.array(cam.distortion)


def convert(library, x):
    return torch.from_numpy(x) if library == "torch" else x


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_projection_against_opencv(name, library):
    cam = camera(name)
    points = np.random.default_rng(0).uniform([-0.6, -0.45, 1], [0.6, 0.45, 1], (200, 3)) * 7.0
    points[:, 2] = 7.0
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), *opencv(cam))[0][:, 0]
    uv, inside = cam.project(convert(library, points))
    np.testing.assert_allclose(np.asarray(uv) - 0.5, expected, atol=1e-9)
    assert np.asarray(inside).mean() > 0.5


@pytest.mark.parametrize("name", MODELS)
def test_directions_against_opencv(name):
    cam = camera(name)
    uv = np.random.default_rng(1).uniform([200, 150], [600, 450], (200, 2))
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 500, 1e-14)
    K, coefficients = opencv(cam)
    expected = cv2.undistortPoints((uv - 0.5)[:, None], K, coefficients, criteria=criteria)[:, 0]
    rays = cam.directions(uv)
    np.testing.assert_allclose(rays[:, :2] / rays[:, 2:], expected, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(cam.range_per_z(uv), 1 / rays[:, 2], atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_directions_invert_projection_in_every_pixel(name, library):
    cam = camera(name)
    centres = pixel_centres(cam.width, cam.height)[::5, ::5]
    rays = cam.directions(convert(library, centres))
    uv, inside = (np.asarray(x) for x in cam.project(rays * 13.0))
    seen = np.isfinite(np.asarray(rays)).all(axis=-1)
    np.testing.assert_allclose(uv[seen], centres[seen], atol=1e-9 * 520)  # 1e-9 in normalised coordinates
    assert inside[seen].all()
    assert not inside[~seen].any()
    if name == "barrel that folds":  # its largest distorted radius is 2/3 of sqrt(1 / 0.9)
        x, y = (centres - [cam.cx, cam.cy]).T / np.array([cam.fx, cam.fy])[:, None, None]
        np.testing.assert_array_equal(seen, (np.hypot(x, y) < 2 / 3 / np.sqrt(0.9)).T)
    else:
        assert seen.all()


def test_float32_works_to_its_own_precision():
    cam = camera("barrel")
    centres = torch.from_numpy(pixel_centres(80, 60) * 10).float()
    uv, _ = cam.project(cam.directions(centres))
    assert uv.dtype == torch.float32
    np.testing.assert_allclose(uv.numpy(), centres.numpy(), atol=5e-3)


def test_far_off_axis_points_do_not_fold_back():
    """r (1 - 0.3 r^2) grows up to r = 1 / sqrt(0.9) = 1.054; without a limit r = 1.8 would land near the centre."""
    cam = camera("barrel that folds")
    r = np.array([0.5, 1.05, 1.06, 1.5, 1.8, 5.0])
    points = np.stack([r, 0 * r, 1 + 0 * r], -1)
    naive = 520 * r * (1 - 0.3 * r**2) + 392.5
    assert 0 < naive[4] < 800
    uv, inside = cam.project(points)
    assert inside.tolist() == [True, True, False, False, False, False]
    assert np.isnan(uv[2:]).all()
    np.testing.assert_allclose(uv[:2, 0], naive[:2], atol=1e-9)


def test_pixels_that_no_direction_reaches_have_no_ray():
    """The largest distorted radius is 1.054 * 2/3 = 0.703."""
    cam = PinholeCamera(1000, 1000, 500.0, 500.0, 500.0, 500.0, MODELS["barrel that folds"])
    uv = 500 + 500 * np.array([[0.70, 0.0], [0.71, 0.0], [0.9, 0.9]])
    assert np.isfinite(cam.directions(uv)).all(axis=1).tolist() == [True, False, False]


def test_a_pole_of_the_rational_model_is_a_limit():
    cam = PinholeCamera(100, 100, 50.0, 50.0, 50.0, 50.0, (0, 0, 0, 0, 0, -0.25, 0, 0))  # r / (1 - r^2 / 4)
    _, inside = cam.project(np.array([[0.5, 0, 1], [2.5, 0, 1], [6.0, 0, 1]]))
    assert inside.tolist() == [True, False, False]
    turns = PinholeCamera(
        200, 200, 50.0, 50.0, 100.0, 100.0, (0, 0, 0, 0, 0, 1, 0, 0)
    )  # r / (1 + r^2), up to r = 1
    _, inside = turns.project(np.array([[0.98, 0, 1], [1.02, 0, 1]]))
    assert inside.tolist() == [True, False]


def test_pixels_farther_out_than_the_last_radius_that_is_seen():
    """r (1 + r^2 - r^4 / 2) grows up to r = 1.2132, where it is 1.6846: Newton may not start on the far side."""
    cam = PinholeCamera(1000, 1000, 250.0, 250.0, 500.0, 500.0, (1.0, -0.5, 0.0, 0.0))
    uv = 500 + 250 * np.array([[0.5, 0.0], [1.0, 1.0], [-1.6, 0.0], [0.0, 1.684], [1.69, 0.0]])
    rays = cam.directions(uv)
    assert np.isfinite(rays).all(axis=1).tolist() == [True, True, True, True, False]
    assert (np.hypot(rays[:4, 0], rays[:4, 1]) / rays[:4, 2] < 1.2133).all()
    np.testing.assert_allclose(cam.project(rays[:4])[0], uv[:4], atol=1e-6)


def test_no_distortion_changes_nothing():
    plain = PinholeCamera(800, 600, 520.0, 515.0, 392.5, 305.25)
    zero = PinholeCamera(800, 600, 520.0, 515.0, 392.5, 305.25, (0.0, 0.0, 0.0, 0.0))
    np.testing.assert_array_equal(plain.rays(), zero.rays())
    assert plain.distortion == ()
    assert len({plain, zero, camera("barrel")}) == 3  # hashable and distinct


@pytest.mark.parametrize("bad", [(0.1,), (0.1,) * 6, (float("nan"), 0, 0, 0)])
def test_impossible_coefficients_are_refused(bad):
    with pytest.raises(ValueError, match="expected finite k1, k2, p1, p2"):
        PinholeCamera(10, 10, 5.0, 5.0, 5.0, 5.0, bad)
