"""Panoramas against an analytic world: every pixel's ray is traced independently."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from support.analytic import render_rig, street, street_rig, true_range, vehicle_pose

from coop3d.geometry import CylindricalCamera, EquirectangularCamera, PinholeCamera
from coop3d.stitching import PanoramaStitcher, PinholeResampler, build_table
from coop3d.stitching.table import NO_CAMERA, TableCache

SLOPES = [(0.0, 0.0), (4.0, -7.0)]  # (roll, pitch) degrees of the ground
CAMERAS = [EquirectangularCamera(504, 126), CylindricalCamera(504, 126, 80.0)]


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("camera", CAMERAS, ids=["equirectangular", "cylindrical"])
def test_range_is_exact_along_each_pixels_own_ray(slope, camera):
    scene, frame = street_rig(1.0, -2.0, 25.0, slope)
    panorama = PanoramaStitcher(camera)(frame)
    truth = true_range(scene, panorama)

    error = np.abs(panorama.range_m - truth)[panorama.valid]
    assert np.median(error) < 1e-3
    assert (error < np.maximum(0.05, 0.005 * truth[panorama.valid])).mean() > 0.995
    assert (error > 0.5).mean() < 0.0005  # no ghosts
    surface = np.isfinite(truth) & panorama.covered
    assert panorama.valid[surface].mean() > 0.98
    assert panorama.valid[~np.isfinite(truth) & panorama.covered].mean() < 0.0005  # sky


@pytest.mark.parametrize("slope", SLOPES)
def test_masks_say_surface_sky_and_uncovered(slope):
    scene = street(slope)
    panorama = PanoramaStitcher(EquirectangularCamera(504, 126))(
        render_rig(scene, vehicle_pose(0.0, 0.0, -40.0, slope), size=(800, 600))
    )
    truth = np.isfinite(true_range(scene, panorama))
    judged = panorama.mask_known & panorama.covered
    assert judged[panorama.covered].mean() > 0.97
    assert (panorama.non_ambiguous == truth)[judged].mean() > 0.9995
    uncovered = ~panorama.covered
    assert not panorama.non_ambiguous[uncovered].any()
    assert panorama.mask_known[uncovered].all()
    assert not panorama.valid[uncovered].any()
    assert (panorama.rgb[uncovered] == 0).all()
    assert (panorama.valid == np.isfinite(panorama.range_m)).all()


def test_nominal_rig_covers_what_its_geometry_predicts():
    """About 86 % of a 1008x252, +-45 degree panorama, counted here by plain trigonometry per camera."""
    frame = render_rig(street(), vehicle_pose(0, 0, 0), size=(80, 60))
    panorama = PanoramaStitcher(EquirectangularCamera(1008, 252))(frame)
    azimuth = (np.arange(1008) + 0.5) / 1008 * 360 - 180
    tan_el = np.tan(np.radians(45 - (np.arange(252) + 0.5) / 252 * 90))[:, None]
    covered = np.zeros((252, 1008), bool)
    for yaw in (0, 100, -100, 180):
        relative = np.radians((azimuth - yaw + 180) % 360 - 180)
        with np.errstate(divide="ignore"):
            covered |= (np.abs(relative) < np.radians(50)) & (
                np.abs(tan_el / np.cos(relative)) < 0.75 * np.tan(np.radians(50))
            )
    assert covered.mean() == pytest.approx(0.857, abs=0.002)
    assert (panorama.covered == covered).mean() > 0.999


def test_right_side_is_right_and_forward_is_in_the_middle():
    frame = render_rig(street(), vehicle_pose(0, 0, 0), size=(80, 60), with_depth=False)
    colours = np.eye(4, 3, dtype=np.uint8) * 200
    painted = [  # photographs need not have one size
        replace(
            view,
            camera=PinholeCamera.from_hfov(80 + 8 * k, 60 + k, 100.0),
            image=np.full((60 + k, 80 + 8 * k, 3), colours[k]),
        )
        for k, view in enumerate(frame.views)
    ]
    rgb = PanoramaStitcher(EquirectangularCamera(360, 90))(replace(frame, views=tuple(painted))).rgb
    middle = rgb[45]
    np.testing.assert_array_equal(middle[180], colours[0])  # azimuth 0: front camera
    np.testing.assert_array_equal(middle[270], colours[1])  # +90 degrees: right camera
    np.testing.assert_array_equal(middle[90], colours[2])
    np.testing.assert_array_equal(middle[0], colours[3])  # the seam lies behind
    np.testing.assert_array_equal(middle[359], colours[3])
    # Where two cameras see the same, from 130 to 150 degrees, each has the half nearer to its axis.
    # The front camera alone reaches 50 degrees to both sides.
    for column, k in ((318, 1), (321, 3), (41, 2), (38, 3), (131, 0), (228, 0)):
        np.testing.assert_array_equal(middle[column], colours[k])


def test_colour_matches_a_filtered_rendering_of_the_same_rays():
    scene = street((3.0, 5.0))
    camera = EquirectangularCamera(504, 126)
    panorama = PanoramaStitcher(camera)(render_rig(scene, vehicle_pose(0, 0, 10, (3.0, 5.0)), (800, 600)))
    S = 4  # average of S x S rays per pixel, from the pixel's own origin
    fine = EquirectangularCamera(504 * S, 126 * S)
    R, t = panorama.T_world_pano[:3, :3], panorama.T_world_pano[:3, 3]
    origins = panorama.origin_map().repeat(S, 0).repeat(S, 1) @ R.T + t
    directions = fine.rays() @ R.T
    distance = scene.trace(origins, directions)
    with np.errstate(invalid="ignore"):
        colour = scene.colour(np.nan_to_num(origins + distance[..., None] * directions, posinf=0, neginf=0))
    colour = colour.reshape(126, S, 504, S, 3).mean((1, 3))
    smooth = distance.reshape(126, S, 504, S).transpose(0, 2, 1, 3).reshape(126, 504, -1)
    with np.errstate(invalid="ignore"):
        inner = panorama.valid & (np.ptp(smooth, axis=-1) < 0.05 * smooth.min(-1)) & (smooth.max(-1) < 15)
    mse = ((panorama.rgb[inner] - colour[inner]) ** 2).mean()
    assert inner.mean() > 0.2
    assert 10 * np.log10(255**2 / mse) > 42


@pytest.mark.parametrize(
    ("S", "cells"),  # (column, row) of the samples in each pixel's S x S grid
    [
        (1, [(0, 0)]),
        (2, [(0, 0), (1, 1)]),
        (3, [(0, 0), (2, 0), (1, 1), (0, 2), (2, 2)]),
        (4, [(0, 0), (2, 0), (1, 1), (3, 1), (0, 2), (2, 2), (1, 3), (3, 3)]),
    ],
)
def test_colour_is_the_mean_of_bilinear_samples_on_a_chessboard(S, cells):
    camera = EquirectangularCamera(252, 63)
    frame = render_rig(street(), vehicle_pose(0, 0, 0), with_depth=False)
    rng = np.random.default_rng(S)
    noise = [gaussian_filter(rng.uniform(0, 255, v.image.shape), (4, 4, 0)) for v in frame.views]
    images = [(255 * (n - n.min()) / np.ptp(n)).astype(np.uint8) for n in noise]
    views = tuple(replace(v, image=image) for v, image in zip(frame.views, images, strict=True))
    panorama = PanoramaStitcher(camera, supersample=S)(replace(frame, views=views))

    row, column = np.nonzero(panorama.covered)
    expected = np.zeros((len(row), 3))
    inner = np.ones(len(row), bool)
    for x, y in cells:
        rays = camera.directions(np.stack([column + (x + 0.5) / S, row + (y + 0.5) / S], axis=-1))
        for k, view in enumerate(frame.views):
            uv, inside = view.camera.project(rays @ view.T_rig_cam[:3, :3])
            mine = panorama.source[row, column] == k
            inner &= ~mine | (inside & (uv > 1).all(-1) & (uv < np.array([399, 299])).all(-1))
            for c in range(3):
                found = map_coordinates(images[k][..., c].astype(float), (uv[:, ::-1] - 0.5).T, order=1)
                expected[mine, c] += found[mine] / len(cells)
    assert inner.mean() > 0.9
    difference = np.abs(panorama.rgb[row, column] - expected)[inner]
    assert difference.max() < 2  # cv2 rounds positions to 1/32 pixel, each sample and their mean to one level
    assert difference.mean() < 0.5


def test_pretending_that_rays_start_at_the_centre_is_metres_off():
    """Guards mistake 4 of the earlier attempt: origins matter, and the test above would notice."""
    scene = street()
    panorama = PanoramaStitcher(EquirectangularCamera(504, 126))(render_rig(scene, vehicle_pose(0, 0, 0)))
    centred = replace(panorama, origins=np.zeros_like(panorama.origins))
    front = panorama.valid & (panorama.source == 0)
    error = np.abs(panorama.range_m - true_range(scene, centred))[front]
    assert np.median(error) > 0.5


def test_sparse_depth_is_never_interpolated():
    scene = street((2.0, 3.0))
    frame = render_rig(scene, vehicle_pose(0, 0, 0, (2.0, 3.0)), size=(800, 600))
    rng = np.random.default_rng(0)
    sparse = []
    for view in frame.views:
        z = np.where(rng.random(view.z_m.shape) < 0.02, view.z_m, np.nan).astype(np.float32)
        sparse.append(replace(view, z_m=z))
    panorama = PanoramaStitcher(EquirectangularCamera(1008, 252))(
        replace(frame, views=tuple(sparse), depth_is_dense=False)
    )
    expected = np.full((252, 1008), np.nan, np.float32)
    for k, view in enumerate(sparse):
        hit = np.isfinite(view.z_m)
        ranges = (view.z_m * view.camera.range_per_z(_centres(view.z_m)))[hit]
        uv, inside = panorama.camera.project(view.camera.rays()[hit] @ view.T_rig_cam[:3, :3].T)
        nearest_last = np.argsort(-ranges)
        for n in nearest_last[inside[nearest_last]]:
            column, row = uv[n].astype(int)
            if panorama.source[row, column] == k:
                expected[row, column] = ranges[n]
    assert 0.02 < panorama.valid.mean() < 0.2
    np.testing.assert_array_equal(panorama.range_m, expected)
    # only hit pixels are known (or uncovered)
    np.testing.assert_array_equal(panorama.mask_known, panorama.valid | ~panorama.covered)


def _centres(z):
    u, v = np.meshgrid(np.arange(z.shape[1]) + 0.5, np.arange(z.shape[0]) + 0.5)
    return np.stack([u, v], -1)


def test_without_depth_only_the_uncovered_is_known():
    panorama = PanoramaStitcher(EquirectangularCamera(504, 126))(
        render_rig(street(), vehicle_pose(0, 0, 0), size=(80, 60), with_depth=False)
    )
    assert not panorama.valid.any()
    np.testing.assert_array_equal(panorama.mask_known, ~panorama.covered)


def test_seams_depend_on_the_rig_only_and_noise_in_poses_shares_a_table():
    stitcher = PanoramaStitcher(EquirectangularCamera(504, 126))
    a = stitcher(render_rig(street(), vehicle_pose(0, 0, 0), size=(80, 60)))
    b = stitcher(render_rig(street((5.0, 5.0)), vehicle_pose(3, 4, 77, (5.0, 5.0)), size=(80, 60)))
    assert a.source is b.source


def test_tables_are_kept_for_the_rigs_used_last():
    camera = PinholeCamera.from_hfov(80, 60, 100.0)
    cache = TableCache(EquirectangularCamera(36, 9), size=2)

    def table(x_m: float, pitch: float = 0.0):
        T = np.eye(4)
        T[:3, 3] = x_m, 0.25, 0.5
        T[1, 2], T[2, 1] = -pitch, pitch
        return cache.get([camera], [T])

    first, second = table(1.0), table(2.0)
    assert first is not second
    assert table(1.00003, 3e-6) is first
    assert table(3.0) is not second
    assert table(1.0) is first  # used after the second
    assert table(2.0) is not second
    assert table(2.0, 3e-5) is not table(2.0)
    assert table(2.0003) is not table(2.0)


def test_rig_centroid_moves_the_frame_but_not_the_world():
    scene = street()
    frame = render_rig(scene, vehicle_pose(0, 0, 30), size=(400, 300))
    panorama = PanoramaStitcher(EquirectangularCamera(504, 126), centre="rig_centroid")(frame)
    np.testing.assert_allclose(panorama.origins.mean(0), 0, atol=1e-6)
    error = np.abs(panorama.range_m - true_range(scene, panorama))[panorama.valid]
    assert np.median(error) < 1e-3
    with pytest.raises(ValueError, match="centre is 'roof'"):
        PanoramaStitcher(centre="roof")


def test_missing_camera_leaves_its_sector_uncovered():
    frame = render_rig(street(), vehicle_pose(0, 0, 0), size=(80, 60))
    three = replace(frame, views=frame.views[:3])
    panorama = PanoramaStitcher(EquirectangularCamera(360, 90))(three)
    assert set(np.unique(panorama.source)) == {0, 1, 2, NO_CAMERA}
    assert not panorama.covered[45, 0]


@pytest.mark.parametrize("slope", SLOPES)
def test_pinhole_views_keep_geometry_at_another_size(slope):
    scene = street(slope)
    views = PinholeResampler(280, 210)(render_rig(scene, vehicle_pose(2, 1, 15, slope), size=(800, 600)))
    assert len(views) == 4
    for view in views:
        assert view.rgb.shape == (210, 280, 3)
        assert view.covered.all()
        error = np.abs(view.range_m - true_range(scene, view))[view.valid]
        assert np.median(error) < 1e-3
        assert (error < 0.05).mean() > 0.99


def test_table_looks_where_an_independent_projection_says():
    frame = render_rig(street(), vehicle_pose(0, 0, 0), size=(800, 600))
    camera = EquirectangularCamera(252, 63)
    table = build_table(camera, [v.camera for v in frame.views], [v.T_rig_cam for v in frame.views])
    rng = np.random.default_rng(1)
    for i, j in zip(rng.integers(63, size=60), rng.integers(252, size=60), strict=True):
        k = table.source[i, j]
        if k == NO_CAMERA:
            continue
        view = frame.views[k]
        K = view.camera.matrix
        far = 1e7 * camera.rays()[i, j]  # a point so far that the origin does not matter
        x, y, z = K @ (np.linalg.inv(view.T_rig_cam) @ np.append(far, 1.0))[:3]
        np.testing.assert_allclose(table.uv[i, j], [x / z, y / z], atol=1e-2)
