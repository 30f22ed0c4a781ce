"""The doctor passes sound datasets and catches each classic mistake when it is injected."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import yaml
from support import mistakes
from support.analytic import DEFAULT_KEY, Scene
from support.scripts import run_script

from coop3d.datasets import CooperativeDataset, DataError, PinholeViews, StitchedPanoramas, VehicleSampling
from coop3d.datasets.doctor import examine, examine_all
from coop3d.datasets.doctor.clouds import confirmed_nearby, near_points, not_seen_through
from coop3d.datasets.opv2v import OPV2VIndex
from coop3d.datasets.synthetic import SyntheticConfig, make_synthetic_opv2v
from coop3d.geometry import CylindricalCamera, EquirectangularCamera, carla, invert_rigid, transform_points
from coop3d.types import Panorama

# Seed 4: two vehicles 16 m apart on slopes of 3 and 2 degrees, one at a right angle to the other.
CONFIG = SyntheticConfig(
    seed=4, image_size=(320, 240), scenarios={"train": 1}, frames=1, vehicles=(2, 2), lidar_points=480
)
CAMERA = EquirectangularCamera(504, 126)
LIDAR_ONLY = ("lidar", "fused")
PAIRS = {
    "dense": "points of one panorama in another",
    "lidar": "points of one sparse panorama in another",
    "fused": "points of one sparse panorama in another",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    make_synthetic_opv2v(root / "images", root / "depth", CONFIG, progress=False)
    return root


@pytest.fixture
def copy(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "data")
    return tmp_path / "data"


def report(root, depth_source="dense", camera=CAMERA, **spoil):
    """Of a dataset at ``root``; ``spoil`` goes to `mistakes.AfterStitching`."""
    depth_root = root / "depth" if depth_source in ("dense", "auto") else None
    source = StitchedPanoramas(root / "images", "train", camera, depth_root, depth_source)
    if spoil:
        source.stitcher = mistakes.AfterStitching(source.stitcher, **spoil)
    return examine(CooperativeDataset(source, VehicleSampling(2, max_distance_m=None)), num_samples=1)


def failed(*args, **kwargs):
    return {check.name for check in report(*args, **kwargs).checks if check.ok is False}


def edit_yaml(root, change, agent="*"):
    for path in root.glob(f"images/train/*/{agent}/*.yaml"):
        meta = yaml.safe_load(path.read_text())
        change(meta)
        path.write_text(yaml.dump(meta))


# sound data


@pytest.mark.parametrize("depth_source", ["dense", "lidar", "fused"])
def test_a_sound_dataset_passes_every_check(sound, depth_source):
    found = report(sound, depth_source)
    assert found.ok, found.to_table()
    assert all(check.ok for check in found.checks), found.to_table()  # and every one could be measured
    names = {check.name for check in found.checks}
    assert {"panorama to fused LiDAR, median", PAIRS[depth_source]} <= names
    assert "0 skipped" in found.to_table()
    assert found.to_json()["ok"] is True


def test_a_sound_dataset_without_depth_passes(sound):
    found = report(sound, "none")
    assert found.ok, found.to_table()


def test_another_camera_has_another_prediction(sound):
    covered = {}
    for name, camera in (
        ("wide", CylindricalCamera(504, 160, 110.0)),
        ("narrow", EquirectangularCamera(504, 63, 45.0)),
    ):
        found = report(sound, camera=camera)
        assert found.ok, found.to_table()
        covered[name] = next(c.value for c in found.checks if c.name == "panorama covered")
    assert covered["wide"] < 0.75 < 0.9 < covered["narrow"]


def test_projected_lidar_as_depth_files_passes(copy):
    """The team's own depth files: sparse, and projected from the LiDAR that they are compared with."""
    mistakes.project_lidar_to_depth_files(copy, spread=False)
    found = report(copy, "auto")
    assert found.ok, found.to_table()


# 1. Euler angles


@pytest.mark.parametrize(
    ("wrong", "depth_source"),
    [*((w, "dense") for w in mistakes.WRONG_EULER), ("right-handed signs", "lidar")],
)
def test_wrong_euler_angles_in_code_are_caught(sound, monkeypatch, wrong, depth_source):
    monkeypatch.setattr(carla, "carla_pose_to_matrix", mistakes.WRONG_EULER[wrong])
    names = failed(sound, depth_source)
    assert "extrinsic against cords, translation" in names
    assert {"LiDAR of one vehicle to another's, worst", PAIRS[depth_source]} <= names


@pytest.mark.parametrize("depth_source", ["dense", *LIDAR_ONLY])
def test_wrong_angles_in_files_are_caught(copy, depth_source):
    """Consistently wrong: extrinsics agree, but the world does not."""
    mistakes.write_wrong_angles(copy)
    names = failed(copy, depth_source)
    assert "LiDAR of one vehicle to another's, worst" in names
    assert not any("extrinsic" in name for name in names)


# 2. cropped photographs


@pytest.mark.parametrize(
    ("adjust", "depth_source"), [(True, "dense"), (False, "dense"), (True, "lidar"), (True, "none")]
)
def test_photographs_cropped_before_stitching_are_caught(sound, adjust, depth_source):
    crop = partial(mistakes.cropped, adjust_intrinsics=adjust)
    assert "panorama covered" in failed(sound, depth_source, before=crop)


def test_photographs_cropped_on_disk_are_caught(copy):
    mistakes.crop_files(copy, adjust_intrinsics=True)
    found = report(copy)
    check = next(c for c in found.checks if c.name == "panorama covered")
    assert check.ok is False
    assert check.value == pytest.approx(0.33, abs=0.01)
    assert check.low == pytest.approx(0.857 - 0.02, abs=0.003)


def test_photographs_cropped_on_disk_with_old_intrinsics_are_caught(copy):
    mistakes.crop_files(copy, adjust_intrinsics=False)
    found = report(copy)
    assert "sampled instants that can be read" in {c.name for c in found.checks if c.ok is False}
    assert "The image was resized or belongs to another rig" in found.unreadable[0]


# 3. z-depth taken as range


def test_depth_files_that_hold_range_are_caught(copy):
    mistakes.depth_files_as_range(copy)
    assert {"LiDAR points on the depth images", "LiDAR points on the panorama"} <= failed(copy)


def test_code_that_takes_z_for_range_is_caught(sound, monkeypatch):
    mistakes.z_is_range_in_code(monkeypatch)
    assert {"LiDAR points on the panorama", "panorama to fused LiDAR, median"} <= failed(sound)


@pytest.mark.parametrize("depth_source", ["dense", *LIDAR_ONLY])
def test_panoramas_with_z_for_range_are_caught(sound, depth_source):
    names = failed(sound, depth_source, change=mistakes.range_is_z)
    assert {"panorama to fused LiDAR, median", "LiDAR points on the panorama"} <= names


# 4. ray origins


@pytest.mark.parametrize("depth_source", ["dense", *LIDAR_ONLY, "none"])
def test_rays_from_the_rig_centre_are_caught(sound, depth_source):
    names = failed(sound, depth_source, change=mistakes.origins_at_the_centre)
    assert "ray origins against camera centres" in names
    if depth_source != "none":  # without looking at the origins, too
        assert {"LiDAR points on the panorama", "panorama to fused LiDAR, median"} <= names


# 5. averaged depth


def test_plain_bilinear_sampling_is_caught(sound):
    assert "depth edges averaged, panorama" in failed(sound, change=mistakes.bilinear_range)


def test_blurred_depth_files_are_caught(copy):
    mistakes.blur_depth_files(copy)
    assert "depth edges averaged, files" in failed(copy)


def test_sparse_depth_averaged_with_zeros_is_caught(copy):
    mistakes.project_lidar_to_depth_files(copy, spread=True)
    assert {"LiDAR points on the depth images", "LiDAR points on the panorama"} <= failed(copy, "auto")


@pytest.mark.parametrize("depth_source", LIDAR_ONLY)
def test_lidar_range_averaged_with_zeros_is_caught(sound, depth_source):
    names = failed(sound, depth_source, change=mistakes.blurred_range)
    assert "panorama to the LiDAR points it comes from" in names


# 6. masks


@pytest.mark.parametrize("change", [mistakes.mask_is_coverage, mistakes.mask_is_coverage_and_known])
@pytest.mark.parametrize("depth_source", ["dense", "lidar", "none"])
def test_a_mask_that_means_coverage_is_caught(sound, change, depth_source):
    expected = "sky called a surface" if depth_source == "dense" else "unmeasured pixels called a surface"
    assert expected in failed(sound, depth_source, change=change)


# other mistakes


def test_swapped_side_cameras_are_caught(copy):
    for one in copy.rglob("*_camera1*"):
        other = one.with_name(one.name.replace("camera1", "camera2"))
        held = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(held)
    assert "LiDAR points on the depth images" in failed(copy)


def test_wrong_sign_of_yaw_in_a_camera_is_caught(copy):
    def flip(meta):
        lidar_yaw = meta["lidar_pose"][4]
        meta["camera1"]["cords"][4] = 2 * lidar_yaw - meta["camera1"]["cords"][4]

    edit_yaml(copy, flip)
    assert "extrinsic against cords, rotation" in failed(copy)


@pytest.mark.parametrize("depth_source", ["dense", *LIDAR_ONLY])
def test_wrong_pose_between_vehicles_is_caught(copy, depth_source):
    def shift(meta):
        for name in ("lidar_pose", "camera0", "camera1", "camera2", "camera3"):
            values = meta[name] if name == "lidar_pose" else meta[name]["cords"]
            values[0] += 3.0
            values[2] += 2.0

    agent = OPV2VIndex(copy / "images", "train").frames[-1].key.agent
    edit_yaml(copy, shift, agent)
    names = failed(copy, depth_source)
    assert "LiDAR of one vehicle to another's, worst" in names
    assert depth_source == "fused" or PAIRS[depth_source] in names


def panorama_at(z, scene, width):
    """What one camera 1.9 m above the ground sees all around, 38 deg up and down."""
    camera = EquirectangularCamera(width, width // 4, 76.0)
    T = np.eye(4)
    T[1, 3], T[2, 3] = -1.9, z
    range_m = scene.trace(T[:3, 3], camera.rays()).astype(np.float32)
    hit = np.isfinite(range_m)
    return Panorama(
        key=DEFAULT_KEY, camera=camera, kind="central", rgb=np.zeros((*hit.shape, 3), np.uint8),
        range_m=np.where(hit, range_m, np.float32(np.nan)), source=np.zeros(hit.shape, np.uint8),
        origins=np.zeros((1, 3), np.float32), covered=np.ones_like(hit), valid=hit, non_ambiguous=hit,
        mask_known=np.ones_like(hit), T_world_pano=T,
    )  # fmt: skip


def test_panoramas_are_compared_near_both_vehicles():
    """From 36 m away, posts beside one vehicle fall between the centres of the other's coarse pixels."""
    ground, wall = (np.zeros(3), np.array([0.0, -1.0, 0.0])), (np.array([0, 0, -35.0]), np.array([0, 0, 1.0]))
    between = 42 * np.tan(np.radians(360 / 126) * np.arange(-2, 3))
    posts = [(np.array([x, -4.0, -6.0]), np.eye(3), np.array([0.4, 5.0, 0.4])) for x in between]
    scene = Scene(planes=[ground, wall], boxes=posts)
    a, far, near = (panorama_at(z, scene, width) for z, width in ((0.0, 1008), (36.0, 126), (12.0, 126)))
    points = transform_points(invert_rigid(far.T_world_pano) @ a.T_world_pano, near_points(a))
    assert not_seen_through(np.asarray(points), far) < 0.95
    assert confirmed_nearby(a, far) > 0.99
    assert confirmed_nearby(a, near) > 0.95
    near.T_world_pano[1, 3] += 2.0
    assert confirmed_nearby(a, near) < 0.5


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


def test_many_skipped_frames_are_caught(copy):
    next(copy.rglob("*_camera2.png")).unlink()
    source = StitchedPanoramas(copy / "images", "train", CAMERA)
    found = examine(CooperativeDataset(source, VehicleSampling(1)), num_samples=1)
    assert [c.name for c in found.checks if c.ok is False] == ["frames that are complete"]


def test_a_depth_root_without_depth_is_caught(copy):
    source = StitchedPanoramas(copy / "images", "train", CAMERA, copy / "images")
    found = examine(CooperativeDataset(source, VehicleSampling(1)), num_samples=1)
    assert [c.name for c in found.checks if c.ok is False] == ["frames with depth files"]


def test_a_report_survives_json(sound):
    found = report(
        sound, change=lambda p, f: p.__class__(**{**vars(p), "origins": p.origins[:3]}), depth_source="none"
    )
    values = {c["name"]: c["value"] for c in found.to_json()["checks"]}
    assert values["ray origins against camera centres"] is None  # infinite: another number of cameras
    assert not found.ok
    assert np.isfinite(values["panorama covered"])


def test_a_source_that_stitches_nothing_is_refused(sound):
    source = PinholeViews(sound / "images", "train", 56, 42, sound / "depth")
    with pytest.raises(
        DataError, match=r"the doctor looks into the files themselves, found a PinholeViews source"
    ):
        examine(CooperativeDataset(source, VehicleSampling(2, max_distance_m=None)))


def test_the_command_writes_a_table_and_json_and_exits_with_its_verdict(sound, tmp_path):
    """The team's options; a split that is missing fails without a traceback."""
    overrides = [
        "machine=local3090", f"machine.opv2v_images_root={sound}/images", f"machine.opv2v_depth_root={sound}/depth",
        "dataset=opv2v_cyl_coop_demo",
    ]  # fmt: skip
    for splits, status in ((["train"], 0), (["train", "val"], 1)):
        command = ("validate_opv2v_cyl_setup.py", "--num-samples", 1, "--verbose", "--output",
                   tmp_path / "report.json", "--output-html", tmp_path / "report.html", "--splits", *splits,
                   "--hydra-overrides", *overrides)  # fmt: skip
        printed = run_script(*command, status=status).stdout
        reports = json.loads((tmp_path / "report.json").read_text())
        assert [r["ok"] for r in reports] == [True, False][: len(splits)]
        assert "ok   panorama covered" in printed
        assert "panorama covered" in (tmp_path / "report.html").read_text()
