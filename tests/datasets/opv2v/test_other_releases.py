"""Data laid out like OPV2V by others: V2XSet, other rigs with distorted lenses, 8-bit depth."""

import cv2
import numpy as np
import pytest
import yaml
from support.analytic import mount, render_rig, street, vehicle_pose
from support.opv2v_files import write_dataset, write_frame

from coop3d.datasets import CooperativeDataset, PinholeViews, StitchedPanoramas, VehicleSampling
from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import OPV2VIndex, load_rig_frame
from coop3d.geometry import EquirectangularCamera, PinholeCamera
from coop3d.types import SampleKey

CAMERA = EquirectangularCamera(252, 63)
SPLIT = ("train", "2021_08_20_21_10_00")


def edit_yaml(path, change):
    meta = yaml.safe_load(path.read_text())
    change(meta)
    path.write_text(yaml.dump(meta))


# V2XSet


@pytest.fixture
def v2xset(tmp_path):
    """Two vehicles, of which one lacks a camera, and a unit that looks down; no depth."""
    scene = street()
    for agent, x, z in (("641", 0, 0), ("650", 3, 18)):
        for frame in ("000068", "000070"):
            rig = render_rig(scene, vehicle_pose(x, z, 0), (80, 60), SampleKey(SPLIT[1], agent, frame))
            write_frame(tmp_path, "train", rig)
    unit = vehicle_pose(-3, 9, 40)
    unit[1, 3] -= 4.0
    unit[:3, :3] = unit[:3, :3] @ cv2.Rodrigues(np.radians([-35.0, 0, 0]))[0]  # pitched down
    write_frame(tmp_path, "train", render_rig(scene, unit, (80, 60), SampleKey(SPLIT[1], "-1", "000068")))
    for path in tmp_path.glob("train/*/650/*_camera3.png"):
        path.unlink()
    for path in tmp_path.glob("train/*/650/*.yaml"):
        edit_yaml(path, lambda meta: meta.pop("camera3"))
    return tmp_path


def test_v2xset_loads_as_it_is(v2xset):
    index = OPV2VIndex(v2xset, "train", cameras="auto")
    assert {(e.key.agent, len(e.camera_names)) for e in index.frames} == {("-1", 4), ("641", 4), ("650", 3)}
    assert index.skipped == []
    assert all(e.depth_paths is None for e in index.frames)
    default = OPV2VIndex(v2xset, "train")
    assert {e.key.agent for e in default.frames} == {"-1", "641"}
    assert {s.reason for s in default.skipped} == {"no photograph of camera3"}


@pytest.mark.parametrize("reference", ["first", "random"])
def test_a_unit_joins_but_is_never_the_reference(v2xset, reference):
    source = StitchedPanoramas(v2xset, "train", CAMERA, cameras="auto")
    dataset = CooperativeDataset(source, VehicleSampling((2, 3), reference, "random"))
    groups = [dataset.keys_of(epoch, i) for epoch in range(20) for i in range(len(dataset))]
    assert not any(keys[0].agent.startswith("-") for keys in groups)
    assert any("-1" in {k.agent for k in keys} for keys in groups)
    with pytest.raises(DataError, match="reference '-1'"):
        CooperativeDataset(source, VehicleSampling(2, reference="-1"))
    batch = dataset[0].batch
    assert batch.inputs.shape[1] == len(dataset.keys_of(0, 0))


def test_three_cameras_cover_less(v2xset):
    source = StitchedPanoramas(v2xset, "train", CAMERA, cameras="auto")
    covered = {e.key.agent: source.load(e)[0].covered.mean() for e in source.index.frames}
    assert covered["641"] > 0.8
    assert 0.5 < covered["650"] < 0.75


# other rigs


def write_distorted_rig(root, width=160, height=120):
    """Five pinholes all round with barrel distortion, the last one smaller; photographs warped with OpenCV."""
    scene, T_world_vehicle = street((2.0, -3.0)), vehicle_pose(1.0, 2.0, 20.0, (2.0, -3.0))
    key = SampleKey(SPLIT[1], "7", "000010")
    frame = render_rig(scene, T_world_vehicle, (16, 12), key)
    path = write_frame(root, "train", frame)
    for old in path.parent.glob("*.png"):
        old.unlink()
    meta = yaml.safe_load(path.read_text())
    distortion = [-0.2, 0.03, 0.001, -0.0005]
    from coop3d.geometry.carla import matrix_to_carla_pose, opencv_to_carla

    truth = {}
    for i in range(5):
        w, h = (width, height) if i < 4 else (width // 2, height // 2)
        f = w / 2 / np.tan(np.radians(50))
        K = np.array([[f, 0, w / 2], [0, f, h / 2], [0, 0, 1.0]])
        T_world_cam = T_world_vehicle @ mount(0.5, 0.1 * i, 1.5, 72.0 * i)
        u, v = np.meshgrid(np.arange(w), np.arange(h))
        points = np.stack([u, v], -1).reshape(-1, 1, 2).astype(float)
        K_cv = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
        xy = cv2.undistortPoints(points, K_cv, np.array(distortion), criteria=criteria)[:, 0]
        d = np.concatenate([xy, np.ones((len(xy), 1))], 1)
        d /= np.linalg.norm(d, axis=1, keepdims=True)
        d_world = d @ T_world_cam[:3, :3].T
        t = scene.trace(T_world_cam[:3, 3], d_world)
        hit = np.isfinite(t)
        image = np.full((h * w, 3), (150, 190, 240), np.uint8)
        image[hit] = scene.colour(T_world_cam[:3, 3] + t[hit, None] * d_world[hit])
        cv2.imwrite(str(path.with_name(f"000010_camera{i}.png")), image.reshape(h, w, 3)[..., ::-1])
        pose = matrix_to_carla_pose(opencv_to_carla(T_world_cam)).tolist()
        meta[f"camera{i}"] = {"cords": pose, "intrinsic": K.tolist(), "distortion": distortion}
        truth[f"camera{i}"] = T_world_cam
    path.write_text(yaml.dump(meta))
    return scene, truth


def test_a_rig_of_five_distorted_cameras_works_from_its_yaml(tmp_path):
    scene, T_world_cam = write_distorted_rig(tmp_path)
    source = StitchedPanoramas(tmp_path, "train", EquirectangularCamera(504, 126), cameras="auto")
    frame = source.load_frame(source.index.frames[0])
    assert [v.name for v in frame.views] == [f"camera{i}" for i in range(5)]
    assert [v.image.shape[1] for v in frame.views] == [160] * 4 + [80]
    assert frame.views[2].camera.distortion == (-0.2, 0.03, 0.001, -0.0005)
    # Colours lie where the world has them: look each pixel's own ray up in the analytic scene.
    panorama = source.stitch(frame)
    assert panorama.covered.mean() > 0.7
    for k, view in enumerate(frame.views[:4]):
        inner = cv2.erode((panorama.source == k).astype(np.uint8), np.ones((5, 5), np.uint8)) == 1
        d_world = panorama.camera.rays()[inner] @ panorama.T_world_pano[:3, :3].T
        origin = T_world_cam[view.name][:3, 3]
        t = scene.trace(origin, d_world)
        near = t < 12.0  # texture far away is finer than a pixel
        expected = scene.colour(origin + t[near, None] * d_world[near]).astype(float)
        error = np.abs(panorama.rgb[inner][near] - expected).mean(axis=1)
        assert np.median(error) < 6.0


def test_distortion_is_checked(tmp_path):
    write_distorted_rig(tmp_path)
    entry = OPV2VIndex(tmp_path, "train", cameras="auto").frames[0]
    edit_yaml(entry.yaml_path, lambda meta: meta["camera1"].update(distortion=[0.1, 0.2]))
    with pytest.raises(DataError, match=r"key 'camera1.distortion' is '\[0.1, 0.2\]', expected a list of"):
        load_rig_frame(entry)


def test_cameras_must_be_names_or_auto(tmp_path):
    images, _ = write_dataset(tmp_path, frames=1)
    with pytest.raises(ValueError, match=r"cameras is 'camera0', expected 'auto' or a list"):
        OPV2VIndex(images, "train", cameras="camera0")
    index = OPV2VIndex(images, "train", cameras=["camera2", "camera0"])
    assert index.frames[0].camera_names == ("camera2", "camera0")
    with pytest.raises(
        ValueError, match=r"the same number of views of every vehicle, but dataset.cameras=auto"
    ):
        PinholeViews(images, "train", 56, 42, cameras="auto")
    assert PinholeViews(images, "train", 56, 42, cameras=["camera0", "camera3"]).views_per_vehicle == 2


# depth in whole metres


@pytest.fixture
def rounded(tmp_path):
    """The exact depth files replaced by PNGs beside the photographs."""
    images, depth = write_dataset(tmp_path, frames=1)
    for path in depth.glob("*/*/*/*.npy"):
        z = np.load(path)
        metres = np.where((z > 0) & (z < 254.5), np.round(z), 255).astype(np.uint8)
        frame, camera, _ = path.stem.split("_")
        cv2.imwrite(str(images / path.relative_to(depth).with_name(f"{frame}_depth{camera[-1]}.png")), metres)
    return images, depth


def test_rounded_depth_is_used_only_when_asked(rounded, caplog):
    images, exact = rounded
    index = OPV2VIndex(images, "train")
    assert "8-bit PNG of whole metres" in caplog.text
    entry = index.frames[0]
    assert entry.depth_is_rounded
    auto = load_rig_frame(entry)
    assert auto.sweeps
    assert auto.depth_quantum_m == 0.0
    assert all(v.z_m is None for v in auto.views)
    asked = load_rig_frame(entry, "dense")
    assert asked.depth_quantum_m == 1.0
    assert not asked.depth_is_dense  # neither interpolated nor a statement about the sky
    truth = load_rig_frame(OPV2VIndex(images, "train", exact).frames[0], "dense")
    for a, b in zip(asked.views, truth.views, strict=True):
        known = np.isfinite(a.z_m)
        assert known.any()
        assert a.z_m[known].min() >= 10.0
        assert np.abs(a.z_m - b.z_m)[known].max() <= 0.5
        assert np.isnan(a.z_m[np.isnan(b.z_m)]).all()


def test_rounded_depth_is_the_last_resort_and_never_exact(rounded):
    images, _ = rounded
    for path in images.glob("train/*/*/*.pcd"):
        path.unlink()
    source = StitchedPanoramas(images, "train", CAMERA)
    assert source.load_frame(source.index.frames[0]).depth_quantum_m == 1.0
    panorama = source.load(source.index.frames[0])[0]
    assert panorama.valid.any()
    assert not panorama.mask_known[panorama.covered & ~panorama.non_ambiguous].any()
    batch = CooperativeDataset(source, VehicleSampling(2))[0].batch
    assert not batch.targets.is_synthetic.any()


def test_exact_depth_is_preferred_to_rounded(rounded):
    images, exact = rounded
    assert not OPV2VIndex(images, "train", exact).frames[0].depth_is_rounded
    for path in exact.rglob("*.npy"):
        path.unlink()
    assert OPV2VIndex(images, "train", exact).frames[0].depth_is_rounded  # found beside the photographs
    for path in images.rglob("*_depth*.png"):
        path.rename(exact / path.relative_to(images))
    assert OPV2VIndex(images, "train", exact).frames[0].depth_is_rounded  # or under the depth root


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            np.zeros((60, 80, 3), np.uint8),
            r"uint8 of shape \(60, 80, 3\), expected 8 bits per pixel, one channel",
        ),
        (np.zeros((6, 8), np.uint8), r"uint8 of shape \(6, 8\)"),
        (None, "no readable image"),
    ],
)
def test_other_depth_pngs_are_refused(rounded, content, message):
    images, _ = rounded
    entry = OPV2VIndex(images, "train").frames[0]
    path = entry.depth_paths[0]
    if content is None:
        path.write_bytes(b"x")
    else:
        cv2.imwrite(str(path), content)
    with pytest.raises(DataError, match=message) as error:
        load_rig_frame(entry, "dense")
    assert str(path) in str(error.value)


def test_pinhole_camera_keeps_its_fields():
    assert PinholeCamera.from_hfov(80, 60, 100.0).distortion == ()
