"""The doctor passes a sound dataset and catches the classic mistakes when they are injected."""

import shutil

import numpy as np
import pytest
import yaml

from coop3d.datasets import CooperativeDataset, StitchedPanoramas, VehicleSampling
from coop3d.datasets.doctor import examine, examine_all
from coop3d.datasets.synthetic import SyntheticConfig, make_synthetic_opv2v
from coop3d.geometry import EquirectangularCamera

CONFIG = SyntheticConfig(seed=9, image_size=(320, 240), scenarios={"train": 1}, frames=1, vehicles=(2, 2))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    make_synthetic_opv2v(root / "images", root / "depth", CONFIG, progress=False)
    return root


@pytest.fixture
def copy(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "data")
    return tmp_path / "data"


def report(root):
    source = StitchedPanoramas(root / "images", "train", EquirectangularCamera(504, 126), root / "depth")
    return examine(CooperativeDataset(source, VehicleSampling(2, max_distance_m=None)), num_samples=1)


def failed(root):
    return {check.name for check in report(root).checks if check.ok is False}


def edit_yaml(root, change):
    for path in root.glob("images/train/*/*/*.yaml"):
        meta = yaml.safe_load(path.read_text())
        change(meta)
        path.write_text(yaml.dump(meta))


def test_a_sound_dataset_passes_every_check(sound):
    found = report(sound)
    assert found.ok, found.to_table()
    assert all(check.ok for check in found.checks)
    assert "0 skipped" in found.to_table()
    assert found.to_json()["ok"] is True


def test_range_written_as_z_is_caught(copy):
    for path in copy.glob("depth/train/*/*/*.npy"):
        z = np.load(path)
        v, u = np.indices(z.shape) + 0.5
        f = z.shape[1] / 2 / np.tan(np.radians(50))
        factor = np.sqrt(((u - z.shape[1] / 2) / f) ** 2 + ((v - z.shape[0] / 2) / f) ** 2 + 1)
        np.save(path, (z * factor).astype(np.float32))
    assert "LiDAR points on the depth image" in failed(copy)


def test_swapped_side_cameras_are_caught(copy):
    for one in copy.rglob("*_camera1*"):
        other = one.with_name(one.name.replace("camera1", "camera2"))
        held = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(held)
    assert "LiDAR points on the depth image" in failed(copy)


def test_wrong_sign_of_yaw_in_a_camera_is_caught(copy):
    def flip(meta):
        lidar_yaw = meta["lidar_pose"][4]
        meta["camera1"]["cords"][4] = 2 * lidar_yaw - meta["camera1"]["cords"][4]

    edit_yaml(copy, flip)
    assert "extrinsic against cords, rotation" in failed(copy)


def test_wrong_pose_between_vehicles_is_caught(copy):
    agent = sorted(copy.glob("images/train/*/*/"))[-1].name

    def shift(meta):
        for name in ("lidar_pose", "camera0", "camera1", "camera2", "camera3"):
            values = meta[name] if name == "lidar_pose" else meta[name]["cords"]
            values[0] += 3.0
            values[2] += 2.0

    for path in copy.glob(f"images/train/*/{agent}/*.yaml"):
        meta = yaml.safe_load(path.read_text())
        shift(meta)
        path.write_text(yaml.dump(meta))
    assert "points of one vehicle in the other's view" in failed(copy)


def test_unreadable_frames_and_missing_splits_are_reported_not_raised(copy):
    next(copy.rglob("*_camera2.png")).write_bytes(b"")
    found = report(copy)
    assert not found.ok
    assert "_camera2.png: 0 bytes" in found.to_table()

    def missing(name):
        return CooperativeDataset(StitchedPanoramas(copy / "images", name, EquirectangularCamera(504, 126)))

    (absent,) = examine_all(missing, ["validate"], 1)
    assert not absent.ok
    assert "no such split folder" in absent.to_table()
