"""Index, YAML, frames: exact conversion of poses, quirks of the released data, and bad input."""

import numpy as np
import pytest
import yaml
from support.analytic import render_rig, street, vehicle_pose
from support.opv2v_files import write_dataset, write_frame

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import (
    OPV2VIndex,
    load_rig_frame,
    load_yaml,
    read_depth,
    read_image,
    read_pcd,
    sweeps,
)
from coop3d.geometry import transform_points
from coop3d.types import SampleKey

KEY = SampleKey("2021_08_20_21_10_24", "641", "000069")
POSE = vehicle_pose(20.0, -7.0, 130.0, (6.0, -9.0))  # on a slope: roll and pitch are not zero


@pytest.fixture
def frame_on_disk(tmp_path):
    frame = render_rig(street((6.0, -9.0)), POSE, (80, 60), KEY)
    path = write_frame(tmp_path / "images", "train", frame, tmp_path / "depth")
    return frame, path, tmp_path


def entry_of(root, **kwargs):
    return OPV2VIndex(root / "images", "train", root / "depth", **kwargs).frames[0]


def test_frame_comes_back_as_it_was_written(frame_on_disk):
    """Poses made in OpenCV axes by hand survive CARLA's angles on disk, on a slope."""
    frame, _, root = frame_on_disk
    loaded = load_rig_frame(entry_of(root))
    assert loaded.key == KEY
    assert loaded.depth_is_dense
    np.testing.assert_allclose(loaded.T_world_rig, frame.T_world_rig, atol=1e-9)
    for a, b in zip(loaded.views, frame.views, strict=True):
        np.testing.assert_allclose(a.T_rig_cam, b.T_rig_cam, atol=1e-9)
        assert a.camera == b.camera
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.z_m, b.z_m)


def test_cloud_is_in_opencv_axes(frame_on_disk):
    _, path, root = frame_on_disk
    first = path.with_suffix(".pcd").read_text().splitlines()[11].split()
    x, y, z = (float(v) for v in first[:3])
    cloud = load_rig_frame(entry_of(root), with_sweep=True).sweeps[0].points_rig
    np.testing.assert_allclose(cloud[0], [y, -z, x], atol=1e-5)


def test_instants_group_vehicles_and_order_ids_as_numbers(tmp_path):
    scene = street()
    for agent in ("1045", "641", "-1"):
        for tick in ("000068", "000070"):
            if (agent, tick) != ("641", "000070"):  # an agent without that frame
                frame = render_rig(scene, vehicle_pose(0, 0, 0), (16, 12), SampleKey("s", agent, tick))
                write_frame(tmp_path, "train", frame)
    (tmp_path / "train" / "s" / "data_protocol.yaml").write_text("a: 1\n")
    (tmp_path / "train" / "s" / "notes").mkdir()
    index = OPV2VIndex(tmp_path, "train")
    assert [[e.key.agent for e in i.entries] for i in index.instants] == [
        ["-1", "641", "1045"],
        ["-1", "1045"],
    ]
    assert [e.key.is_roadside_unit for e in index.instants[0].entries] == [True, False, False]


def test_a_frame_without_a_camera_is_skipped_with_its_reason(tmp_path, caplog):
    images, depth = write_dataset(tmp_path, frames=3)
    gone = images / "train" / "2021_08_20_21_10_00" / "105" / "000070_camera3.png"
    gone.unlink()
    no_depth = depth / "train" / "2021_08_20_21_10_00" / "205" / "000072_camera1_depth.npy"
    no_depth.unlink()
    (images / no_depth.relative_to(depth)).with_name("000072.pcd").unlink()
    index = OPV2VIndex(images, "train", depth)
    assert len(index) == 4
    assert [(s.key.frame, s.reason) for s in index.skipped] == [
        ("000070", "no photograph of camera3"),
        ("000072", "no depth of camera1, and no cloud"),
    ]
    assert "skipped 2 of 6 frames (1 x no photograph of camera3 in 2021_08_20_21_10_00; " in caplog.text


def test_where_depth_files_are_missing_range_comes_from_the_cloud(tmp_path, caplog):
    images, depth = write_dataset(tmp_path, frames=2)
    (depth / "train" / "2021_08_20_21_10_00" / "205" / "000070_camera1_depth.npy").unlink()
    for _ in range(2):  # listed, then from the kept index
        index = OPV2VIndex(images, "train", depth)
        assert len(index) == 4
        assert "1 of 4 frames have no depth files" in caplog.text
        frame = load_rig_frame(next(e for e in index.frames if e.depth_paths is None))
        assert (frame.depth_is_dense, len(frame.sweeps)) == (False, 1)
        strict = OPV2VIndex(images, "train", depth, needs_depth=True)
        assert (
            len(strict.frames) == len(strict.T_world_rig) == sum(len(i.entries) for i in strict.instants) == 3
        )
        assert [s.reason for s in strict.skipped] == ["no depth files (depth_source=dense)"]


@pytest.mark.parametrize(
    ("split", "depth", "message"),
    [
        ("validate", None, r"validate: no such split folder \(this root holds \['train'\]\)"),
        ("train", "nowhere", "depth root has no such split folder"),
    ],
)
def test_missing_roots_say_what_to_set(tmp_path, split, depth, message):
    images, _ = write_dataset(tmp_path, frames=1)
    with pytest.raises(DataError, match=message):
        OPV2VIndex(images, split, None if depth is None else tmp_path / depth)


def test_missing_images_root_and_empty_split(tmp_path):
    with pytest.raises(DataError, match="images root itself is missing"):
        OPV2VIndex(tmp_path / "nowhere", "train")
    (tmp_path / "train" / "scenario" / "12").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no usable frame .*train holds no file"):
        OPV2VIndex(tmp_path, "train")


def test_a_wrong_depth_root_says_what_it_holds(tmp_path, caplog):
    images, depth = write_dataset(tmp_path, frames=1)
    with pytest.raises(DataError, match=r"no usable frame \(found e.g. .*_depth.npy\)"):  # swapped
        OPV2VIndex(depth, "train", images)
    assert len(OPV2VIndex(images, "train", images)) == 2
    assert "2 of 2 frames have no depth files (found e.g." in caplog.text
    for root, found in ((None, "no depth root is set"), (images, r"found e\.g\.")):
        with pytest.raises(
            DataError, match=rf"depth_source=dense .* none of 2 frames .*{found}.*--depth-root"
        ):
            OPV2VIndex(images, "train", root, needs_depth=True)


def damage(entry, what):
    """Break one file of a frame the way disks and copies do."""
    image, depth = entry.image_paths[1], entry.depth_paths[2]
    if what == "truncated png":
        image.write_bytes(image.read_bytes()[:40])
    elif what == "empty png":
        image.write_bytes(b"")
    elif what == "resized image":
        import cv2

        cv2.imwrite(str(image), np.zeros((30, 40, 3), np.uint8))
    elif what == "depth of other size":
        np.save(depth, np.ones((5, 5), np.float32))
    elif what == "truncated depth":
        depth.write_bytes(depth.read_bytes()[:100])
    elif what == "NaN depth":
        np.save(depth, np.full((60, 80), np.nan, np.float32))
    elif what == "pickled depth":
        np.save(depth, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    else:
        meta = yaml.safe_load(entry.yaml_path.read_text())
        if what == "text pose":
            meta["lidar_pose"] = "somewhere"
        elif what == "short pose":
            meta["camera2"]["cords"] = [1.0, 2.0]
        elif what == "NaN pose":
            meta["camera0"]["cords"][0] = float("nan")
        elif what == "missing camera":
            del meta["camera3"]
        elif what == "list":
            meta = [1, 2]
        entry.yaml_path.write_text(yaml.dump(meta))
    return {"image": image, "depth": depth, "yaml": entry.yaml_path}


@pytest.mark.parametrize(
    ("what", "file", "message"),
    [
        ("truncated png", "image", "not a readable image"),
        ("empty png", "image", "0 bytes that are not a readable image"),
        ("resized image", "image", "image is 40 x 30, but the principal point"),
        ("depth of other size", "depth", r"depth is float32 of shape \(5, 5\)"),
        ("truncated depth", "depth", "not a readable .npy"),
        ("NaN depth", "depth", "every pixel is 0, negative, NaN"),
        ("pickled depth", "depth", "not a readable .npy"),
        ("text pose", "yaml", "key 'lidar_pose' is str 'somewhere'"),
        ("short pose", "yaml", r"key 'camera2.cords' is shape \(2,\), expected numbers of shape \(6,\)"),
        ("NaN pose", "yaml", "key 'camera0.cords' contains NaN"),
        ("missing camera", "yaml", "key 'camera3.intrinsic' is missing"),
        ("list", "yaml", "key 'lidar_pose' is missing"),
    ],
)
def test_bad_input_names_file_and_key(frame_on_disk, what, file, message):
    entry = entry_of(frame_on_disk[2])
    files = damage(entry, what)
    with pytest.raises(DataError, match=message) as error:
        load_rig_frame(entry)
    assert str(files[file]) in str(error.value)


def test_mixed_image_sizes_are_refused(frame_on_disk):
    import cv2

    entry = entry_of(frame_on_disk[2])
    meta = yaml.safe_load(entry.yaml_path.read_text())
    meta["camera1"]["intrinsic"] = [[17.0, 0, 20.0], [0, 17.0, 15.0], [0, 0, 1.0]]
    entry.yaml_path.write_text(yaml.dump(meta))
    cv2.imwrite(str(entry.image_paths[1]), np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(DataError, match="mixes image sizes"):
        load_rig_frame(entry, "none")


def test_depth_zero_and_infinity_are_unknown(tmp_path):
    np.save(tmp_path / "d.npy", np.array([[0, 1.5], [np.inf, -2]], np.float64))
    z = read_depth(tmp_path / "d.npy", (2, 2))
    np.testing.assert_array_equal(z, np.array([[np.nan, 1.5], [np.nan, np.nan]], np.float32))


def test_the_far_plane_of_carlas_depth_camera_is_no_surface(tmp_path):
    """24 bits of 1000 m: the last one is the sky."""
    last = 2**24 - 1
    codes = np.array([[last, last - 5000], [last // 2, last]], np.float64)
    np.save(tmp_path / "d.npy", (1000.0 * codes / last).astype(np.float32))
    z = read_depth(tmp_path / "d.npy", (2, 2))
    np.testing.assert_allclose(z, [[np.nan, 999.702], [500.0, np.nan]], rtol=1e-6)


def test_automatic_depth_stops_at_the_first_sparse_file(frame_on_disk):
    """With a cloud at hand, what the other files hold does not matter; beside dense ones an empty one is broken."""
    entry = entry_of(frame_on_disk[2])
    first, second, *_ = entry.depth_paths
    dense, sparse = np.load(first), np.zeros((60, 80), np.float32)
    sparse[::9, ::9] = 7.0
    np.save(second, np.zeros_like(dense))
    with pytest.raises(DataError, match="every pixel is 0"):
        load_rig_frame(entry)
    np.save(first, sparse)
    frame = load_rig_frame(entry)
    assert not frame.depth_is_dense
    assert frame.views[0].z_m is None
    assert len(frame.sweeps) == 1
    np.save(first, np.zeros_like(dense))
    assert load_rig_frame(entry).views[0].z_m is None
    entry.pcd_path.unlink()
    with pytest.raises(DataError, match="every pixel is 0"):  # without a cloud the files are all there is
        load_rig_frame(entry_of(frame_on_disk[2]))


def test_damaged_depth_headers_are_data_errors(frame_on_disk):
    """numpy parses the header as Python: what it raises depends on which byte is wrong."""
    path = entry_of(frame_on_disk[2]).depth_paths[0]
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        broken = whole.copy()
        for at in rng.integers(10, 80, 3):
            broken[at] = rng.integers(256)
        path.write_bytes(broken)
        try:
            read_depth(path, (60, 80))
        except DataError:
            refused += 1
    assert refused > 100


def test_points_on_the_own_body_are_left_out_of_partners_clouds(tmp_path):
    """The box is placed around the partner's LiDAR, so that it is axis-aligned in the partner's cloud."""
    images, depth = write_dataset(tmp_path, frames=1)
    me, partner = OPV2VIndex(images, "train", depth).frames
    meta = yaml.safe_load(partner.yaml_path.read_text())
    x, y, z, *angle = meta["lidar_pose"]
    length, width, height = 0.6, 0.9, 0.3
    meta["vehicles"] = {
        int(me.key.agent): {
            "location": [x, y, z], "center": [0.0] * 3, "extent": [length, width, height], "angle": angle,
        }
    }  # fmt: skip
    partner.yaml_path.write_text(yaml.dump(meta))
    cloud = load_rig_frame(partner, with_sweep=True).sweeps[0].points
    body = (np.abs(cloud) < np.array([width, height, length]) + 0.15).all(
        axis=1
    )  # x right, y down, z forward
    assert 0 < body.sum() < len(cloud)
    np.testing.assert_array_equal(load_rig_frame(me, "fused", [partner]).sweeps[1].points, cloud[~body])


def test_clouds_of_all_vehicles(tmp_path, monkeypatch):
    """One without a cloud is left out; every cloud is read once for all who need it, and again once it has changed."""
    images, depth = write_dataset(tmp_path, frames=1, positions=((0, 0, 0), (3, 18, 20), (-3, -6, 175)))
    reads = []
    monkeypatch.setattr(sweeps, "read_pcd", lambda path: reads.append(path) or read_pcd(path))
    index = OPV2VIndex(images, "train", depth)

    def load():
        return [load_rig_frame(e, "fused", index.partners_of(e)) for e in index.frames]

    frames = load()
    assert [len(frame.sweeps) for frame in frames] == [3, 3, 3]
    assert len(reads) == 3
    world = [[transform_points(f.T_world_rig, s.points_rig.astype(float)) for s in f.sweeps] for f in frames]
    for n, seen in enumerate(world):  # its own cloud, then the others', where these vehicles have them
        others = [world[m][0] for m in range(3) if m != n]
        np.testing.assert_allclose(seen, [world[n][0], *others], atol=1e-4)
    changed = index.frames[0].pcd_path
    changed.write_text(changed.read_text().replace("6553600", "6553601"))
    load()
    assert len(reads) == 4
    index.frames[1].pcd_path.unlink()
    index = OPV2VIndex(images, "train", depth)
    assert [len(load_rig_frame(e, "fused", index.partners_of(e)).sweeps) for e in index.frames[::2]] == [2, 2]
    with pytest.raises(DataError, match="no LiDAR cloud"):
        load_rig_frame(index.frames[1], "fused", index.partners_of(index.frames[1]))


@pytest.mark.parametrize("depth_source", ["lidar", "fused"])
def test_an_empty_cloud_is_not_a_frame_without_surfaces(frame_on_disk, depth_source):
    entry = entry_of(frame_on_disk[2])
    header = entry.pcd_path.read_text().partition("DATA ascii\n")
    empty = header[0].replace("WIDTH 5", "WIDTH 0").replace("POINTS 5", "POINTS 0")
    entry.pcd_path.write_text(empty + header[1])
    with pytest.raises(DataError, match=r"\.pcd: holds no point"):
        load_rig_frame(entry, depth_source)


def test_images_are_rgb(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "x.png"), np.full((2, 2, 3), (10, 20, 30), np.uint8))  # BGR
    assert read_image(tmp_path / "x.png")[0, 0].tolist() == [30, 20, 10]


def test_tuples_and_numpy_scalars_are_read_and_nothing_else(tmp_path):
    path = tmp_path / "a.yaml"
    data = {"t": (1.0, 2.0), "s": np.float64(2.5), "i": np.int64(-3), "f": np.float32(0.5)}
    path.write_text(yaml.dump(data))  # full dumper, as OPV2V's files were written
    assert "!!python/tuple" in path.read_text()
    assert load_yaml(path) == {"t": (1.0, 2.0), "s": 2.5, "i": -3, "f": 0.5}
    path.write_text("x: !!python/object/apply:os.system ['echo hi']\n")
    with pytest.raises(DataError, match="not a YAML file this reader accepts"):
        load_yaml(path)


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(DataError, match="holds a list"):
        load_yaml(tmp_path / "a.yaml")


def test_reading_only_some_keys_equals_reading_all(frame_on_disk):
    _, path, _ = frame_on_disk
    everything = load_yaml(path)
    some = load_yaml(path, keys={"lidar_pose", "camera2"})
    assert some == {k: everything[k] for k in ("lidar_pose", "camera2")}
    path.write_text("a: &x [1, 2]\nb: *x\n")  # an alias across blocks needs the whole file
    assert load_yaml(path, keys={"b"})["b"] == [1, 2]
