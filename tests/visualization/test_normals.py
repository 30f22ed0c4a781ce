"""Normals from neighbouring pixels against closed forms: planes, a sphere, edges, seams."""

from __future__ import annotations

import numpy as np
import pytest
from support.analytic_panoramas import POSES, ROAD_Y, panorama

from coop3d.geometry import CylindricalCamera, EquirectangularCamera, PinholeCamera
from coop3d.visualization.export import view_normals


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(axis=-1), -1, 1)))


def test_street_of_axis_aligned_surfaces():
    p = panorama(POSES[0], width=504)  # at the world's origin, not turned: every true normal is an axis
    normals = view_normals(p.points_pano(), p.camera.rays(), p.origin_map(), p.valid)
    assert np.isfinite(normals).all(axis=-1)[p.valid].mean() > 0.99
    found = np.isfinite(normals).all(axis=-1)
    np.testing.assert_allclose(np.linalg.norm(normals[found], axis=-1), 1, atol=1e-5)
    assert ((normals * p.camera.rays()).sum(axis=-1)[found] <= 1e-6).all()  # all face the camera
    off_axis = degrees_between(np.abs(normals[found]).max(axis=-1)[:, None], np.ones(1))
    assert np.mean(off_axis < 0.5) > 0.97  # the rest lies on creases, where two axes meet
    road = found & (np.abs(p.points_pano()[..., 1] - ROAD_Y) < 1e-3)
    assert np.mean(degrees_between(normals[road], np.array([0.0, -1.0, 0.0])) < 1.0) > 0.98


@pytest.mark.parametrize(
    "camera",
    [
        EquirectangularCamera(504, 126),
        CylindricalCamera(504, 126),
        PinholeCamera.from_hfov(320, 240, 90.0),
    ],
)
def test_inside_a_sphere_normals_point_to_its_centre(camera):
    centre, radius = np.array([2.0, 1.0, -3.0]), 12.0
    rays = camera.rays()
    along = rays @ centre
    points = rays * (along + np.sqrt(along**2 - centre @ centre + radius**2))[..., None]
    normals = view_normals(points, rays, np.zeros_like(rays), np.ones(rays.shape[:2], bool))
    true = (centre - points) / radius
    assert np.isfinite(normals).all()
    inner = (
        np.s_[1:-1, 1:-1] if isinstance(camera, PinholeCamera) else np.s_[1:-1]
    )  # a panorama closes around
    assert degrees_between(normals, true)[inner].max() < 0.1
    assert degrees_between(normals, true).max() < 1.0  # one-sided differences at the borders


def test_no_tangent_crosses_an_edge():
    camera = EquirectangularCamera(504, 126)
    rays = camera.rays()
    ahead = rays[..., 2] > 0.5
    with np.errstate(divide="ignore"):
        near, far = 8.0 / rays[..., 2], 20.0 / rays[..., 2]
    post = np.abs(rays[..., 0] / np.where(ahead, rays[..., 2], 1)) < 0.1
    points = rays * np.where(post, near, far)[..., None]
    normals = view_normals(points, rays, np.zeros_like(rays), ahead)
    assert np.isfinite(normals[ahead]).all()
    assert degrees_between(normals[ahead], np.array([0.0, 0.0, -1.0])).max() < 0.5  # also beside the post


def test_a_seam_between_cameras_is_no_surface_break_and_no_tangent():
    p = panorama(POSES[0], width=504)
    normals = view_normals(p.points_pano(), p.camera.rays(), p.origin_map(), p.valid)
    beside_seam = p.valid & (p.source != np.roll(p.source, -1, axis=1))
    assert beside_seam.sum() > 100
    off_axis = degrees_between(np.abs(normals[beside_seam]).max(axis=-1)[:, None], np.ones(1))
    assert np.nanquantile(off_axis, 0.9) < 1.0


def test_two_cameras_with_equal_ranges_are_still_two_surfaces():
    """Each camera sees a sphere of 10 m around itself: range is the same on both sides of the seam, points are not."""
    camera = EquirectangularCamera(252, 63)
    rays = camera.rays()
    right = rays[..., 0] > 0
    origins = np.where(right[..., None], [0.0, 0.0, 1.5], [0.0, 0.0, -1.5])
    normals = view_normals(origins + 10.0 * rays, rays, origins, np.ones(right.shape, bool))
    assert np.isfinite(normals).all()
    assert degrees_between(normals, -rays).max() < 2.0


def test_unknown_and_lonely_pixels_have_no_normal():
    camera = EquirectangularCamera(36, 9)
    rays = camera.rays()
    points = 5.0 * rays
    points[2, 3] = np.nan
    known = np.zeros(rays.shape[:2], bool)
    known[[2, 6], [3, 20]] = True  # one of them NaN, neither with a neighbour
    assert np.isnan(view_normals(points, rays, np.zeros_like(rays), known)).all()
    assert np.isnan(view_normals(np.zeros_like(rays), rays, np.zeros_like(rays), ~known)).all()
