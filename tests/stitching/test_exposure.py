"""Seams of cameras that were exposed differently."""

from dataclasses import replace

import numpy as np
import pytest
from support.analytic import render_rig, street, vehicle_pose

from coop3d.geometry import EquirectangularCamera
from coop3d.stitching import PanoramaStitcher

CAMERA = EquirectangularCamera(504, 126)
GAINS = np.array([1.15, 0.9, 0.75, 1.05])


def exposed(gains):
    """A foggy street: brightness varies slowly and alike for all cameras, but for their gains and noise."""
    frame = render_rig(street(), vehicle_pose(1.0, -2.0, 25.0), size=(400, 300))
    rng = np.random.default_rng(0)
    views = []
    for view, gain in zip(frame.views, gains, strict=True):
        rays = view.camera.rays() @ view.T_rig_cam[:3, :3].T
        fog = 120 + 30 * rays[..., 0] + 25 * rays[..., 1]
        image = gain * fog[..., None] + rng.normal(0, 4, (*fog.shape, 3))
        views.append(replace(view, image=np.clip(np.rint(image), 0, 255).astype(np.uint8)))
    return replace(frame, views=tuple(views))


def test_matched_exposure_recovers_the_gains():
    matched = PanoramaStitcher(CAMERA, exposure="matched")(exposed(GAINS))
    equal = PanoramaStitcher(CAMERA)(exposed(np.ones(4)))
    common = np.exp(np.log(GAINS).mean())  # one common factor is not observable
    for k in range(4):
        mine = equal.source == k
        ratio = matched.rgb[mine].astype(float).mean() / equal.rgb[mine].astype(float).mean()
        assert ratio == pytest.approx(common, rel=0.02), k


def test_no_camera_is_brightened_more_than_twice():
    """The third would need 3.3 times the light: a fault, not an exposure."""
    frame = exposed([1.0, 1.0, 0.2, 1.0])
    as_is, matched = (PanoramaStitcher(CAMERA, exposure=e)(frame) for e in ("as_is", "matched"))
    dark = as_is.source == 2
    assert matched.rgb[dark].mean() / as_is.rgb[dark].mean() == pytest.approx(2, rel=0.02)


def test_parallax_at_the_seams_does_little_harm():
    """Near textured surfaces differ across a seam because the cameras stand apart, not because of exposure."""
    frame = render_rig(street(), vehicle_pose(1.0, -2.0, 25.0), size=(400, 300))
    matched = PanoramaStitcher(CAMERA, exposure="matched")(frame)
    as_is = PanoramaStitcher(CAMERA)(frame)
    for k in range(4):
        mine = as_is.source == k
        ratio = matched.rgb[mine].astype(float).mean() / as_is.rgb[mine].astype(float).mean()
        assert ratio == pytest.approx(1.0, rel=0.25), k


def test_geometry_and_black_pixels_stay():
    matched = PanoramaStitcher(CAMERA, exposure="matched")(exposed(GAINS))
    as_is = PanoramaStitcher(CAMERA)(exposed(GAINS))
    np.testing.assert_array_equal(matched.range_m, as_is.range_m)
    assert (matched.rgb[~matched.covered] == 0).all()


def test_one_camera_has_no_seam_and_keeps_its_exposure():
    frame = exposed(GAINS)
    one = replace(frame, views=frame.views[:1])
    np.testing.assert_array_equal(
        PanoramaStitcher(CAMERA, exposure="matched")(one).rgb, PanoramaStitcher(CAMERA)(one).rgb
    )
