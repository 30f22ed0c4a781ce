"""LiDAR supervision against an analytic world: what is visible is known for every single point."""

from dataclasses import replace

import numpy as np
import pytest
from support.analytic import render_rig, scan, street, true_range, vehicle_pose

from coop3d.geometry import EquirectangularCamera
from coop3d.stitching import PanoramaStitcher, PinholeResampler
from coop3d.types import LidarSweep, RigFrame

CAMERA = EquirectangularCamera(1008, 252)
PARTNERS = [(4.0, 28.0, 200.0), (-5.0, -24.0, 20.0)]  # x, z, yaw on the same street


def lidar_frame(slope: tuple[float, float], fused: bool, noise_m: float = 0.02) -> tuple[RigFrame, object]:
    scene, rng = street(slope), np.random.default_rng(0)
    frame = render_rig(scene, vehicle_pose(1.0, -2.0, 25.0, slope), size=(80, 60), with_depth=False)
    T_world_rig = frame.T_world_rig
    poses = [T_world_rig]
    if fused:
        poses += [render_rig(scene, vehicle_pose(*p, slope), size=(8, 6)).T_world_rig for p in PARTNERS]
    sweeps = tuple(scan(scene, T, T_world_rig, rng, noise_m) for T in poses)
    return replace(frame, sweeps=sweeps), scene


def pixels_with_points(scene, frame, panorama) -> tuple[np.ndarray, np.ndarray]:
    """[H, W] a truly visible point lies in the pixel; [H, W] any point does."""
    visible, any_point = np.zeros(panorama.source.shape, bool), np.zeros(panorama.source.shape, bool)
    R, t = frame.T_world_rig[:3, :3], frame.T_world_rig[:3, 3]
    for sweep in frame.sweeps:
        for k, origin in enumerate(panorama.origins.astype(float)):
            towards = sweep.points_rig - origin
            uv, inside = panorama.camera.project(towards)
            column, row = uv[inside].astype(int).T
            mine = panorama.source[row, column] == k
            column, row, towards = column[mine], row[mine], towards[inside][mine]
            distance = np.linalg.norm(towards, axis=1)
            first = scene.trace(origin @ R.T + t, (towards / distance[:, None]) @ R.T)
            seen = first > 0.99 * distance - 0.15
            any_point[row, column] = True
            visible[row[seen], column[seen]] = True
    return visible, any_point


@pytest.mark.parametrize("fused", [False, True], ids=["own", "fused"])
@pytest.mark.parametrize("slope", [(0.0, 0.0), (4.0, -7.0)])
def test_visible_points_are_kept_and_hidden_ones_dropped(slope, fused):
    frame, scene = lidar_frame(slope, fused)
    panorama = PanoramaStitcher(CAMERA)(frame)
    visible, any_point = pixels_with_points(scene, frame, panorama)
    hidden_share = 1 - visible.sum() / any_point.sum()
    assert hidden_share > (0.03 if fused else 0.001)  # there is something to drop
    assert visible[panorama.valid].mean() > 0.99
    assert panorama.valid[visible].mean() > 0.9
    assert panorama.valid.mean() > 0.15
    assert not panorama.valid[~any_point].any()  # measured pixels only, nothing is interpolated


@pytest.mark.parametrize("fused", [False, True], ids=["own", "fused"])
@pytest.mark.parametrize("slope", [(0.0, 0.0), (4.0, -7.0)])
def test_range_is_that_of_the_pixels_centre_ray(slope, fused):
    frame, scene = lidar_frame(slope, fused)
    panorama = PanoramaStitcher(CAMERA)(frame)
    truth = true_range(scene, panorama)[panorama.valid]
    error = np.abs(panorama.range_m[panorama.valid] - truth)
    assert np.median(error) < 0.02  # the LiDAR's own noise
    assert (error < np.maximum(0.1, 0.01 * truth)).mean() > 0.98
    assert (error < np.maximum(0.5, 0.05 * truth)).mean() > 0.99


def test_grazing_ground_needs_the_move_to_the_centre_ray():
    """Without noise, ground points land on the plane exactly; left where they were measured they do not."""
    frame, scene = lidar_frame((0.0, 0.0), fused=False, noise_m=0.0)
    panorama = PanoramaStitcher(CAMERA)(frame)
    truth = true_range(scene, panorama)
    ground = panorama.valid & (panorama.camera.rays()[..., 1] > 0.03) & (truth > 12)
    height = panorama.points_pano()[..., 1]
    on_ground = ground & (np.abs(height - 1.9) < 0.3)
    assert on_ground.sum() > 4000
    error = np.abs(panorama.range_m - truth)[on_ground] / truth[on_ground]
    assert np.quantile(error, 0.9) < 1e-3  # the rest stands beside obstacles
    row_step = np.abs(np.diff(truth, axis=0))[:-1] / truth[1:-1]  # what half a pixel is worth there
    assert np.median(row_step[on_ground[1:-1]]) > 0.05


def test_masks_with_lidar_only():
    frame, _ = lidar_frame((4.0, -7.0), fused=False)
    panorama = PanoramaStitcher(CAMERA)(frame)
    np.testing.assert_array_equal(panorama.non_ambiguous, panorama.valid)  # an unhit pixel is unknown...
    np.testing.assert_array_equal(panorama.mask_known, panorama.valid | ~panorama.covered)  # ...not ambiguous


def test_dense_depth_comes_first_and_an_empty_sweep_gives_nothing():
    frame, scene = lidar_frame((0.0, 0.0), fused=False)
    empty = LidarSweep(points=np.zeros((0, 3), np.float32), T_rig_sensor=np.eye(4))
    assert not PanoramaStitcher(CAMERA)(replace(frame, sweeps=(empty,))).valid.any()
    dense = render_rig(scene, vehicle_pose(1.0, -2.0, 25.0), size=(80, 60))
    stitcher = PanoramaStitcher(CAMERA)
    with_both = stitcher(replace(dense, sweeps=frame.sweeps))
    np.testing.assert_array_equal(with_both.range_m, stitcher(dense).range_m)


def test_pinhole_views_take_lidar_too():
    frame, scene = lidar_frame((4.0, -7.0), fused=False)
    for view in PinholeResampler(280, 210)(frame):
        truth = true_range(scene, view)[view.valid]
        assert view.valid.mean() > 0.05
        error = np.abs(view.range_m[view.valid] - truth)
        assert (error < np.maximum(0.3, 0.03 * truth)).mean() > 0.98
