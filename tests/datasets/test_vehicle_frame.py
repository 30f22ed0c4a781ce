"""Photographs in the frame of their vehicle: the world they show, against traced rays; pose and calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support.analytic import LIDAR, mount, render_rig, street, true_range, vehicle_pose
from support.opv2v_files import write_frame

from coop3d.conf import compose
from coop3d.datasets import (
    Augmentation,
    CooperativeDataset,
    PinholeViews,
    StitchedPanoramas,
    VehicleSampling,
    roll_yaw,
)
from coop3d.datasets.augment import turn_yaw
from coop3d.datasets.disturb import DisturbedDataset, RigRotation, obstacle
from coop3d.geometry import EquirectangularCamera
from coop3d.types import CameraView, SampleKey

SLOPE = (5.0, -4.0)  # the road is no horizontal plane, so poses roll and pitch
SIZE = (160, 120)
# CARLA's [x forward, y right, z up, roll, yaw, pitch] of cameras in the rig: off centre, tilted, one upside down
RIG = {
    "camera0": (2.4, 0.4, -0.6, 0.0, 4.0, -6.0),
    "camera1": (0.2, 0.9, 0.1, 8.0, 95.0, 3.0),
    "camera2": (-0.4, -0.8, 0.2, -5.0, -98.0, 0.0),
    "camera3": (-1.9, 0.3, -0.3, 180.0, 175.0, 2.0),
}
B = np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]])
POSITIONS = ((0.0, 0.0, 10.0), (3.0, 14.0, 195.0))


def mounting(pose) -> np.ndarray:
    """T_rig_cam in OpenCV axes, by scipy: Rz(yaw) Ry(-pitch) Rx(-roll) with the axes exchanged on either side."""
    roll, yaw, pitch = pose[3:]
    T = np.eye(4)
    T[:3, :3] = B @ Rotation.from_euler("ZYX", [yaw, -pitch, -roll], degrees=True).as_matrix() @ B.T
    T[:3, 3] = B @ np.array(pose[:3])
    return T


def tilted_rig(scene, T_world_vehicle, key):
    """The frame of `render_rig` with other cameras, by tracing the rays of their pixels."""
    frame = render_rig(scene, T_world_vehicle, SIZE, key)
    camera = frame.views[0].camera
    u, v = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
    length = np.linalg.norm(rays, axis=-1)
    views = []
    for name, pose in RIG.items():
        T_world_cam = frame.T_world_rig @ mounting(pose)
        directions = (rays / length[..., None]) @ T_world_cam[:3, :3].T
        t = scene.trace(T_world_cam[:3, 3], directions)
        hit = np.isfinite(t)
        image = np.full((*hit.shape, 3), 200, np.uint8)
        image[hit] = scene.colour((T_world_cam[:3, 3] + t[..., None] * directions)[hit])
        z_m = np.where(hit, t / length, np.nan).astype(np.float32)
        views.append(CameraView(name=name, camera=camera, T_rig_cam=mounting(pose), image=image, z_m=z_m))
    return replace(frame, views=tuple(views))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root, scene = tmp_path_factory.mktemp("tilted"), street(SLOPE)
    for v, (x, z, yaw) in enumerate(POSITIONS):
        key = SampleKey("2021_08_20_21_10_00", str(105 + 100 * v), "000068")
        frame = tilted_rig(scene, vehicle_pose(x, z, yaw, SLOPE), key)
        write_frame(root / "images", "train", frame, root / "depth")
    return root / "images", root / "depth"


def photographs(roots, frame="vehicle", size=(56, 48), **changes) -> PinholeViews:
    return PinholeViews(roots[0], "train", *size, roots[1], frame=frame, **changes)


def in_world(view) -> np.ndarray:
    return view.points_pano().astype(float) @ view.T_world_pano[:3, :3].T + view.T_world_pano[:3, 3]


@pytest.mark.parametrize("centre", ["lidar", "rig_centroid"])
def test_photographs_show_the_traced_world_from_the_panoramas_frame(roots, centre):
    scene, source = street(SLOPE), photographs(roots, centre=centre)
    stitched = StitchedPanoramas(*roots[:1], "train", EquirectangularCamera(112, 28), roots[1], centre=centre)
    for entry, (x, z, yaw) in zip(source.index.frames, POSITIONS, strict=True):
        (panorama,) = stitched.load(entry)
        views = source.load(entry)
        T_world_rig = vehicle_pose(x, z, yaw, SLOPE) @ mount(*LIDAR)
        centroid = np.mean([mounting(p)[:3, 3] for p in RIG.values()], axis=0)
        expected = T_world_rig @ np.append(centroid if centre == "rig_centroid" else np.zeros(3), 1.0)
        for k, (view, pose) in enumerate(zip(views, RIG.values(), strict=True)):
            np.testing.assert_array_equal(view.T_world_pano, panorama.T_world_pano)
            np.testing.assert_array_equal(view.origins[0], panorama.origins[k])
            np.testing.assert_allclose(view.T_world_pano[:3, 3], expected[:3], atol=1e-3)
            np.testing.assert_allclose(view.T_world_pano[:3, :3], T_world_rig[:3, :3], atol=1e-5)
            # the camera's own centre and axes, found in the world
            T_world_cam = T_world_rig @ mounting(pose)
            origin = view.T_world_pano @ np.append(view.origins[0], 1.0)
            np.testing.assert_allclose(origin[:3], T_world_cam[:3, 3], atol=1e-3)
            middle = view.camera.directions(np.array([[28.0, 24.0]]))[0]
            np.testing.assert_allclose(view.T_world_pano[:3, :3] @ middle, T_world_cam[:3, 2], atol=1e-4)
            error = np.abs(view.range_m - true_range(scene, view))[view.valid]
            assert view.valid.mean() > 0.3
            assert np.median(error) < 2e-3
            assert (error < 0.05).mean() > 0.98


def test_pixels_and_world_points_are_those_of_the_camera_frames(roots):
    """Only what they are said in differs; the rig is rounded to 0.2 mm and 0.002 degrees, 2 mm at 60 m."""
    source = photographs(roots)
    for entry in source.index.frames:
        both = zip(source.load(entry), photographs(roots, "camera").load(entry), strict=True)
        for in_vehicle, in_camera in both:
            for name in ("rgb", "range_m", "covered", "valid", "non_ambiguous", "mask_known", "source"):
                np.testing.assert_array_equal(getattr(in_vehicle, name), getattr(in_camera, name))
            np.testing.assert_allclose(in_world(in_vehicle), in_world(in_camera), atol=5e-3)
            assert not np.allclose(
                in_vehicle.points_pano(), in_camera.points_pano(), atol=0.1, equal_nan=True
            )


def test_a_panoramas_pixel_and_a_photographs_pixel_show_one_point(roots):
    """The point behind a panorama's pixel, looked up in the photograph it was taken from."""
    source = photographs(roots, size=SIZE)  # as on disk: no resampling
    stitched = StitchedPanoramas(*roots[:1], "train", EquirectangularCamera(448, 112), roots[1])
    entry = source.index.frames[0]
    (panorama,), views = stitched.load(entry), source.load(entry)
    points = panorama.points_pano()
    seen = 0
    for k, view in enumerate(views):
        mine = points[(panorama.source == k) & panorama.valid]
        uv, inside = view.camera.project(mine - view.origins[0])
        assert inside.all()
        theirs = view.points_pano()[tuple(uv.astype(int)[:, ::-1].T)]
        gap = np.linalg.norm(theirs - mine, axis=1) / np.linalg.norm(mine - view.origins[0], axis=1)
        seen += len(gap)
        assert np.nanmedian(gap) < 0.01  # a pixel is 0.9 degrees: half of one, 0.008
    assert seen > 10000


def test_one_pose_per_vehicle_in_a_batch(roots):
    batch = CooperativeDataset(photographs(roots), VehicleSampling(2))[0].batch
    assert batch.inputs.shape == (1, 8, 48, 56)
    T = batch.targets.T_ref_view[0]
    assert float((T[1:4] - T[0]).abs().max()) < 1e-6
    assert float((T[5:] - T[4]).abs().max()) < 1e-6
    panoramas = StitchedPanoramas(*roots[:1], "train", EquirectangularCamera(112, 28), roots[1])
    expected = CooperativeDataset(panoramas, VehicleSampling(2))[0].batch.targets.T_ref_view[0]
    np.testing.assert_allclose(T[[0, 4]], expected, atol=1e-6)
    assert batch.inputs.origins[0, :, 0, 0].norm(dim=-1).min() > 0.3
    points = batch.targets.points_ref[batch.targets.valid].double().numpy()
    T_world_ref = batch.T_world_ref[0]
    scene = street(SLOPE)
    world = points @ T_world_ref[:3, :3].T + T_world_ref[:3, 3]
    ground, normal = scene.planes[0]
    assert (np.abs((world - ground) @ normal) < 0.01).mean() > 0.3  # of both vehicles: the same road


def test_turning_the_frame_moves_no_world_point_and_is_one_turn_per_vehicle(roots):
    source = photographs(roots)
    views = source.load(source.index.frames[1])
    stitched = StitchedPanoramas(*roots[:1], "train", EquirectangularCamera(112, 28), roots[1])
    panorama = roll_yaw(stitched.load(source.index.frames[1])[0], 28)  # a quarter of the circle
    for k, view in enumerate(views):
        turned = turn_yaw(view, np.pi / 2)
        np.testing.assert_allclose(turned.T_world_pano, panorama.T_world_pano, atol=1e-12)
        np.testing.assert_allclose(turned.origins[0], panorama.origins[k], atol=1e-6)
        np.testing.assert_allclose(in_world(turned), in_world(view), atol=1e-4)
    augmented = Augmentation()(views, np.random.default_rng(1))
    for view in augmented[1:]:
        np.testing.assert_array_equal(view.T_world_pano, augmented[0].T_world_pano)
    assert np.abs(augmented[0].T_world_pano - views[0].T_world_pano).max() > 0.1
    still = Augmentation(yaw_roll=False)(views, np.random.default_rng(1))
    np.testing.assert_array_equal(still[2].T_world_pano, views[2].T_world_pano)
    with pytest.raises(ValueError, match="only a mounted camera's frame can be turned, found PinholeCamera"):
        turn_yaw(photographs(roots, "camera").load(source.index.frames[0])[0], 0.1)


def test_a_disturbed_rig_reaches_the_network_and_not_the_truth(roots):
    """Photographs alone know no rig; in the vehicle's frame they do."""
    rig = RigRotation(1.0)
    single = CooperativeDataset(photographs(roots, "camera"), VehicleSampling(2))
    assert "in their own cameras' frames" in obstacle(rig, single)
    clean = CooperativeDataset(photographs(roots), VehicleSampling(2))
    assert obstacle(rig, clean) == ""
    true, seen = clean[0].batch, DisturbedDataset(clean, rig)[0].batch
    assert bool((true.targets.rays == seen.targets.rays).all())
    assert bool((true.inputs.rays == true.targets.rays).all())
    turned = np.degrees(np.arccos((true.inputs.rays * seen.inputs.rays).sum(-1).clamp(-1, 1).numpy()))
    assert 0.1 < np.median(turned) < 5


def test_configs_and_errors(roots):
    cfg = compose("train", ["machine=demo", "dataset=opv2v_pinhole_fused", "model=tiny", "train_params=demo"])
    for split in ("train", "val", "test"):
        assert cfg.dataset[split].source.frame == "vehicle"
    assert cfg.dataset.train.augmentation.yaw_roll
    with pytest.raises(ValueError, match=r"frame is 'rig', expected one of \('camera', 'vehicle'\)"):
        photographs(roots, "rig")
    with pytest.raises(ValueError, match="centre is 'roof'"):
        photographs(roots, centre="roof")
