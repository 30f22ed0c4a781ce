"""Panoramas with one centre, against rays traced from that centre through an analytic world."""

from dataclasses import replace

import numpy as np
import pytest
from support.analytic import render_rig, scan, street, street_rig, true_range, vehicle_pose

from coop3d.geometry import CylindricalCamera, EquirectangularCamera
from coop3d.stitching import PanoramaStitcher

POSE = (1.0, -2.0, 25.0)
SLOPES = [(0.0, 0.0), (4.0, -7.0)]


def seen_by_a_camera(scene, frame, panorama, truth) -> np.ndarray:
    """[H, W] the first surface along the central ray is in the sight of at least one camera."""
    R, t = panorama.T_world_pano[:3, :3], panorama.T_world_pano[:3, 3]
    surface = np.isfinite(truth)
    points = t + np.where(surface, truth, 1.0)[..., None] * (panorama.camera.rays() @ R.T)
    seen = np.zeros(truth.shape, bool)
    for view in frame.views:
        T = frame.T_world_rig @ view.T_rig_cam
        towards = points - T[:3, 3]
        distance = np.linalg.norm(towards, axis=-1)
        inside = view.camera.project(towards @ T[:3, :3])[1]
        seen |= inside & (scene.trace(T[:3, 3], towards / distance[..., None]) > 0.999 * distance - 1e-3)
    return seen & surface


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize(
    "camera",
    [EquirectangularCamera(1008, 252), CylindricalCamera(504, 126, 80.0)],
    ids=["equirect", "cylinder"],
)
def test_dense_depth_moves_exactly(slope, camera):
    scene, frame = street_rig(*POSE, slope)
    panorama = PanoramaStitcher(camera, kind="central")(frame)
    assert panorama.kind == "central"
    assert not panorama.origins.any()
    truth = true_range(scene, panorama)
    error = np.abs(panorama.range_m - truth)[panorama.valid]
    assert np.median(error) < 1e-3
    assert (error < np.maximum(0.05, 0.005 * truth[panorama.valid])).mean() > 0.992
    assert panorama.valid[seen_by_a_camera(scene, frame, panorama, truth)].mean() > 0.99
    assert panorama.valid[~np.isfinite(truth)].mean() < 5e-4
    assert 0.65 < panorama.covered.mean() < 0.8  # the rig's coverage less the parallax holes
    assert not panorama.non_ambiguous[~panorama.covered].any()
    assert (panorama.rgb[~panorama.covered] == 0).all()


def test_colour_is_that_of_the_surface():
    scene, frame = street_rig(0, 0, 10, (3.0, 5.0))
    panorama = PanoramaStitcher(EquirectangularCamera(1008, 252), kind="central")(frame)
    R, t = panorama.T_world_pano[:3, :3], panorama.T_world_pano[:3, 3]
    truth = true_range(scene, panorama)
    near = panorama.valid & (np.abs(panorama.range_m - truth) < 0.05) & (truth < 15)
    points = t + truth[near][:, None] * (panorama.camera.rays()[near] @ R.T)
    mse = ((panorama.rgb[near].astype(float) - scene.colour(points)) ** 2).mean()
    assert near.mean() > 0.3
    assert 10 * np.log10(255**2 / mse) > 33


def test_pretending_infinite_distance_is_metres_off_and_says_central():
    scene = street()
    frame = render_rig(scene, vehicle_pose(*POSE), size=(400, 300))
    panorama = PanoramaStitcher(EquirectangularCamera(504, 126), kind="central_infinite")(frame)
    rig = PanoramaStitcher(EquirectangularCamera(504, 126))(frame)
    assert panorama.kind == "central"
    assert not panorama.origins.any()
    np.testing.assert_array_equal(panorama.rgb, rig.rgb)
    error = np.abs(panorama.range_m - true_range(scene, panorama))[panorama.valid]
    assert np.median(error) > 0.3


def test_the_first_stitch_covers_a_third_and_calls_planar_depth_range():
    frame = render_rig(street(), vehicle_pose(*POSE), size=(400, 300))
    camera = EquirectangularCamera(504, 126)
    first = PanoramaStitcher(camera, kind="first_stitch")(frame)
    rig = PanoramaStitcher(camera)(frame)
    assert first.kind == "central"
    assert not first.origins.any()
    assert 0.3 < first.covered.mean() < 0.45 < rig.covered.mean()
    # The crop keeps fx and the middle row, so its upper and lower border are at atan(100 / 2 / fx) in the middle.
    half = np.degrees(np.arctan(50 / frame.views[0].camera.fx))
    rows = np.flatnonzero(first.covered[:, 252])  # straight ahead
    assert rows.size == pytest.approx(2 * half * 126 / 90, abs=2)
    both = first.valid & rig.valid & (first.source == rig.source)
    assert both.sum() > 10_000
    for k, view in enumerate(frame.views):
        mine = both & (rig.source == k)
        axis = view.T_rig_cam[:3, 2]  # the panorama's axes are the rig's
        planar = rig.range_m[mine] * (camera.rays()[mine] @ axis)
        assert np.median(np.abs(first.range_m[mine] - planar)) < 0.01


def test_without_depth_the_assumed_ground_is_in_place_and_the_lidar_gives_range():
    (scene, frame), rng = street_rig(*POSE), np.random.default_rng(0)
    camera = EquirectangularCamera(504, 126)
    exact = PanoramaStitcher(camera, kind="central")(frame)
    blind = replace(
        frame, views=tuple(replace(v, z_m=None) for v in frame.views), depth_is_dense=False,
        sweeps=(scan(scene, frame.T_world_rig, frame.T_world_rig, rng),),
    )  # fmt: skip
    proxy = PanoramaStitcher(camera, kind="central")(blind)
    infinite = PanoramaStitcher(camera, kind="central_infinite")(frame)
    height = exact.points_pano()[..., 1]
    ground = exact.valid & proxy.covered & (np.abs(height - 1.9) < 0.01) & (exact.range_m < 8)
    assert ground.sum() > 1000

    def error(panorama):
        return np.abs(panorama.rgb[ground].astype(float) - exact.rgb[ground]).mean()

    assert error(proxy) < 0.25 * error(infinite)  # flat ground is what the proxy assumes
    assert proxy.valid.mean() > 0.1
    truth = true_range(scene, proxy)[proxy.valid]
    off = np.abs(proxy.range_m[proxy.valid] - truth)
    assert (off < np.maximum(0.1, 0.01 * truth)).mean() > 0.98
