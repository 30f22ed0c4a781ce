"""What the synthetic generator writes: layout, fields, determinism, resuming."""

from __future__ import annotations

import gc
import hashlib
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from support.disk import full_disk
from support.scripts import run_script

from coop3d.datasets import DataError
from coop3d.datasets.opv2v import LAYOUT_MARK, LayoutIndex, OPV2VIndex
from coop3d.datasets.synthetic import MANIFEST, SPLITS, SyntheticConfig, generate, make_synthetic_opv2v
from coop3d.geometry.carla import carla_pose_to_matrix

CONFIG = SyntheticConfig(
    seed=11,
    image_size=(96, 72),
    scenarios={"train": 1, "test_culver_city": 1},
    frames=2,
    vehicles=(2, 2),
    lidar_points=256,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("synthetic")
    summary = make_synthetic_opv2v(root / "images", root / "depth", CONFIG, progress=False)
    assert summary.written == summary.vehicle_frames == 8
    return root / "images", root / "depth"


def _digest(*roots: Path) -> dict[str, str]:
    return {
        f"{k}/{p.relative_to(root)}": hashlib.sha256(p.read_bytes()).hexdigest()
        for k, root in enumerate(roots)
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def _frames(images: Path) -> list[Path]:
    """All frame files; ``data_protocol.yaml`` lies one folder higher."""
    found = sorted(images.glob("*/*/*/*.yaml"))
    assert found
    return found


def _cloud(path: Path) -> tuple[list[str], np.ndarray]:
    head, _, body = path.read_text().partition("DATA ascii\n")
    return head.splitlines(), np.array(body.split(), dtype=np.float64).reshape(-1, 4)


def test_layout(made):
    images, depth = made
    assert sorted(p.name for p in images.iterdir()) == sorted(["train", "test_culver_city", MANIFEST])
    ticks = set()
    for split in CONFIG.scenarios:
        (scenario,) = (images / split).iterdir()
        assert len(scenario.name.split("_")) == 6
        protocol = yaml.safe_load((scenario / "data_protocol.yaml").read_text())
        agents = [p for p in scenario.iterdir() if p.is_dir()]
        assert sorted(int(p.name) for p in agents) == protocol["scenario"]["connected_vehicles"]
        for agent in agents:
            stems = sorted({p.name[:6] for p in agent.iterdir()})
            assert len(stems) == CONFIG.frames
            assert int(stems[1]) - int(stems[0]) == 2
            assert int(stems[0]) > 0
            ticks.add(int(stems[0]))
            for stem in stems:
                names = {f"{stem}.yaml", f"{stem}.pcd", *(f"{stem}_camera{i}.png" for i in range(4))}
                assert {p.name for p in agent.glob(f"{stem}*")} == names
                where = depth / split / scenario.name / agent.name
                assert {p.name for p in where.glob(f"{stem}*")} == {
                    f"{stem}_camera{i}_depth.npy" for i in range(4)
                }
    assert len(ticks) == 2  # scenarios start at different ticks
    assert set(CONFIG.scenarios) <= set(SPLITS)


def test_yaml_fields_and_calibration(made):
    w, h = CONFIG.image_size
    for path in _frames(made[0]):
        record = yaml.safe_load(path.read_text())
        assert set(record) == {
            "camera0", "camera1", "camera2", "camera3", "ego_speed", "lidar_pose", "plan_trajectory",
            "predicted_ego_pos", "true_ego_pos", "vehicles",
        }  # fmt: skip
        lidar, ego = carla_pose_to_matrix(record["lidar_pose"]), carla_pose_to_matrix(record["true_ego_pos"])
        np.testing.assert_allclose((np.linalg.inv(ego) @ lidar)[:3, 3], [-0.5, 0, 1.9], atol=1e-9)
        np.testing.assert_allclose(record["predicted_ego_pos"][:2], record["true_ego_pos"][:2], atol=1.0)
        assert record["ego_speed"] >= 0
        assert all(len(p) == 3 for p in record["plan_trajectory"])
        places = [(2.5, 0, 1.0, 0), (0, 0.3, 1.8, 100), (0, -0.3, 1.8, -100), (-2.0, 0, 1.5, 180)]
        for i, (x, y, z, yaw) in enumerate(places):
            camera = record[f"camera{i}"]
            K = np.array(camera["intrinsic"])
            f = w / 2 / np.tan(np.radians(50.0))
            np.testing.assert_allclose(K, [[f, 0, w / 2], [0, f, h / 2], [0, 0, 1]])
            T = carla_pose_to_matrix(camera["cords"])
            np.testing.assert_allclose(
                np.linalg.inv(ego) @ T, carla_pose_to_matrix([x, y, z, 0, yaw, 0]), atol=1e-9
            )
            np.testing.assert_allclose(camera["extrinsic"], np.linalg.inv(T) @ lidar, atol=1e-9)
        # The published example: the front camera's extrinsic translates by (-3.0, 0, 0.9).
        np.testing.assert_allclose(np.array(record["camera0"]["extrinsic"])[:3, 3], [-3.0, 0, 0.9], atol=1e-9)


def test_listed_vehicles_were_hit_and_never_the_ego(made):
    together = 0
    for path in _frames(made[0]):
        record = yaml.safe_load(path.read_text())
        vehicles = record["vehicles"]
        agent = int(path.parent.name)
        assert vehicles
        assert agent not in vehicles
        others = {int(p.name) for p in path.parents[1].iterdir() if p.is_dir()} - {agent}
        together += len(others & set(vehicles))
        _, cloud = _cloud(path.with_suffix(".pcd"))
        world = cloud[:, :3] @ (T := carla_pose_to_matrix(record["lidar_pose"]))[:3, :3].T + T[:3, 3]
        for v in vehicles.values():
            roll, yaw, pitch = v["angle"]
            box = carla_pose_to_matrix([*v["location"], roll, yaw, pitch])
            local = (world - box[:3, 3]) @ box[:3, :3] - v["center"]
            assert (np.abs(local) < np.array(v["extent"]) + 0.1).all(axis=1).any()  # 5 sigma of noise
            assert v["speed"] >= 0
    assert together > 0  # connected vehicles see each other


def test_pictures_depth_and_cloud(made):
    images, depth = made
    w, h = CONFIG.image_size
    for path in _frames(images):
        for i in range(4):
            picture = cv2.imread(str(path.with_name(f"{path.stem}_camera{i}.png")), cv2.IMREAD_UNCHANGED)
            assert picture.shape == (h, w, 3)
            assert picture.dtype == np.uint8
            assert picture.std() > 8
            where = depth / path.parent.relative_to(images) / f"{path.stem}_camera{i}_depth.npy"
            z = np.load(where)
            assert z.shape == (h, w)
            assert z.dtype == np.float32
            assert np.isfinite(z).all()
            assert (z >= 0).all()
            assert (z > 0).mean() > 0.3
        head, cloud = _cloud(path.with_suffix(".pcd"))
        assert "FIELDS x y z rgb" in head
        assert f"POINTS {len(cloud)}" in head
        assert "SIZE 4 4 4 4" in head
        bits = cloud[:, 3].astype(np.float32).view(np.uint32)
        assert (bits & 0x00FFFF == 0).all()
        assert len(np.unique(bits >> 16)) > 10
        assert len(cloud) > 2000


def test_lidar_agrees_with_depth(made):
    """Points projected into the photographs lie on the dense depth, as the YAML's calibration says."""
    images, depth = made
    path = _frames(images)[0]
    record = yaml.safe_load(path.read_text())
    _, cloud = _cloud(path.with_suffix(".pcd"))
    for i in range(4):
        E, K = np.array(record[f"camera{i}"]["extrinsic"]), np.array(record[f"camera{i}"]["intrinsic"])
        p = cloud[:, :3] @ E[:3, :3].T + E[:3, 3]
        p = p[(p[:, 0] > 1.0) & (p[:, 0] < 30.0)]
        u, v = K[0, 0] * p[:, 1] / p[:, 0] + K[0, 2], -K[1, 1] * p[:, 2] / p[:, 0] + K[1, 2]
        ok = (u > 0) & (u < CONFIG.image_size[0]) & (v > 0) & (v < CONFIG.image_size[1])
        z = np.load(depth / path.parent.relative_to(images) / f"{path.stem}_camera{i}_depth.npy")
        seen = z[v[ok].astype(int), u[ok].astype(int)]
        ratio = seen / p[ok, 0]
        assert len(ratio) > 100
        assert abs(np.median(ratio) - 1) < 0.01
        assert (np.abs(ratio - 1) < 0.15).mean() > 0.8


def test_same_bytes_with_two_workers(made, tmp_path):
    make_synthetic_opv2v(tmp_path / "images", tmp_path / "depth", replace(CONFIG, workers=2), progress=False)
    assert _digest(tmp_path / "images", tmp_path / "depth") == _digest(*made)


def test_resume_restores_what_is_missing_or_torn(made):
    images, depth = made
    before = _digest(images, depth)
    frames = _frames(images)
    frames[0].unlink()  # killed before the mark of completion
    torn = frames[1].with_name(f"{frames[1].stem}_camera2.png")
    torn.write_bytes(torn.read_bytes()[:-20])
    npy = depth / frames[2].parent.relative_to(images) / f"{frames[2].stem}_camera0_depth.npy"
    npy.write_bytes(npy.read_bytes()[:1000])
    (frames[3].parent / f".{frames[3].stem}.123.pcd").write_bytes(b"half a cloud")
    summary = make_synthetic_opv2v(images, depth, CONFIG, progress=False)
    assert summary.written == 3
    assert summary.vehicle_frames == 8
    assert _digest(images, depth) == before
    assert make_synthetic_opv2v(images, depth, CONFIG, progress=False).written == 0


def test_a_finished_set_is_looked_through_without_building_towns(made, monkeypatch):
    monkeypatch.setattr(generate, "build_scenario", None)
    assert make_synthetic_opv2v(*made, CONFIG, progress=False).written == 0


def test_only_one_town_is_kept(tmp_path):
    """A town is tens of megabytes in few objects: the cycle collector does not come in time."""
    jobs = generate._jobs(tmp_path, None, CONFIG, generate._chosen(CONFIG, None))
    gc.disable()
    try:
        first = generate._scenario(jobs[0])
        first.instant(0)
        alive = weakref.ref(first)
        del first
        generate._scenario(jobs[1])
        assert alive() is None
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Path:
    """The same set as ``made``, as a layout."""
    root = tmp_path_factory.mktemp("layout")
    summary = make_synthetic_opv2v(root / "images", root / "depth", CONFIG, layout_only=True, progress=False)
    assert summary.written == summary.vehicle_frames == 8
    return root / "images"


def test_a_layout_is_the_yaml_of_the_whole_and_marks(made, layout):
    def yaml_of(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.yaml")}

    assert yaml_of(layout) == yaml_of(made[0])
    others = {str(p.relative_to(layout)) for p in layout.rglob("*") if p.is_file() and p.suffix != ".yaml"}
    assert others == {MANIFEST, f"train/{LAYOUT_MARK}", f"test_culver_city/{LAYOUT_MARK}"}
    assert not (layout.parent / "depth").exists()
    assert not list(made[0].rglob(LAYOUT_MARK))


def test_a_layout_is_refused_by_readers_and_gives_the_same_index(made, layout):
    with pytest.raises(DataError, match=r"train: holds a layout .* without --layout-only"):
        OPV2VIndex(layout, "train")
    found, whole = LayoutIndex(layout, "train"), OPV2VIndex(made[0], "train")
    assert [e.key for e in found.frames] == [e.key for e in whole.frames]
    assert [(i.scenario, i.frame, len(i.entries)) for i in found.instants] == [
        (i.scenario, i.frame, len(i.entries)) for i in whole.instants
    ]
    for key, T in whole.T_world_rig.items():
        np.testing.assert_array_equal(found.T_world_rig[key], T)
    with pytest.raises(DataError, match=r"validate: no .*yaml"):
        LayoutIndex(layout, "validate")


def test_an_interrupted_layout_goes_on(made, layout, tmp_path):
    copy = tmp_path / "images"
    shutil.copytree(layout, copy)
    paths = _frames(copy)
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-5])
    again = make_synthetic_opv2v(copy, tmp_path / "depth", CONFIG, layout_only=True, progress=False)
    assert again.written == 2
    assert _digest(copy) == _digest(layout)


def test_a_layout_is_completed_split_by_split(made, layout, tmp_path):
    """Nothing of it is trusted to be whole; what is finished is readable, what is not is still refused."""
    images, depth = tmp_path / "images", tmp_path / "depth"
    shutil.copytree(layout, images)
    part = make_synthetic_opv2v(images, depth, CONFIG, only=[("train", 0)], progress=False)
    assert part.written == part.vehicle_frames == 4
    assert part.scenarios == 1
    assert len(OPV2VIndex(images, "train", depth)) == 4
    with pytest.raises(DataError, match="holds a layout"):
        OPV2VIndex(images, "test_culver_city")
    with pytest.raises(ValueError, match="train holds photographs"):
        make_synthetic_opv2v(images, depth, CONFIG, layout_only=True, progress=False)
    rest = make_synthetic_opv2v(images, depth, CONFIG, progress=False)
    assert (rest.written, rest.vehicle_frames) == (4, 8)
    assert _digest(images, depth) == _digest(*made)


def test_a_part_of_a_split_leaves_its_mark(tmp_path):
    config = replace(CONFIG, scenarios={"train": 2}, image_size=(16, 16), frames=1, lidar_points=8)
    root = tmp_path / "images"
    make_synthetic_opv2v(root, None, config, layout_only=True, progress=False)
    make_synthetic_opv2v(root, None, config, only=[("train", 1)], progress=False)
    with pytest.raises(DataError, match="holds a layout"):
        OPV2VIndex(root, "train")
    assert len(list(root.rglob("*_camera0.png"))) == 2
    for wrong in ([("train", 2)], [("test", 0)], []):
        with pytest.raises(ValueError, match="only names"):
            make_synthetic_opv2v(root, None, config, only=wrong, progress=False)


def test_other_settings_are_refused(made, tmp_path):
    images, depth = made
    with pytest.raises(ValueError, match="seed: found 11, now 12"):
        make_synthetic_opv2v(images, depth, replace(CONFIG, seed=12), progress=False)
    with pytest.raises(ValueError, match="depth: found True, now False"):
        make_synthetic_opv2v(images, None, CONFIG, progress=False)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="not empty"):
        make_synthetic_opv2v(tmp_path, None, CONFIG, progress=False)


def test_after_a_full_disk_the_same_command_goes_on(tmp_path):
    command = (
        "make_synthetic_opv2v.py",
        "--output",
        tmp_path / "towns",
        "--scenarios",
        "train=1,validate=0,test=0",
    )
    command += ("--frames", "1", "--vehicles", "2", "--image-size", "64x48", "--workers", "1", "--quiet")
    with full_disk(20_000):
        said = run_script(*command, status=1).stderr
    assert str(tmp_path / "towns") in said
    assert "the same command goes on from there" in said
    run_script(*command)
    assert len(OPV2VIndex(tmp_path / "towns", "train")) == 2


def test_script_explains_itself():
    assert "examples:" in run_script("make_synthetic_opv2v.py", "--help").stdout
    wrong = run_script("make_synthetic_opv2v.py", "--output", "x", "--image-size", "800", status=2)
    assert "expected WIDTHxHEIGHT" in wrong.stderr
