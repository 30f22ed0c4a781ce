"""The index kept on disk: used while nothing changed, rebuilt when something did; poses read fast and safely."""

import os
import time

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.opv2v_files import write_dataset

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import DEFAULT_CAMERAS, OPV2VIndex, index_cache, listing, load_yaml, poses
from coop3d.datasets.opv2v.poses import read_lidar_pose

HOUR_NS = 3600 * 10**9


@pytest.fixture
def split(tmp_path, monkeypatch):
    """A small split whose files are an hour old, and an empty cache folder."""
    monkeypatch.setenv("COOP3D_CACHE_DIR", str(tmp_path / "cache"))
    images, depth = write_dataset(tmp_path / "data", frames=3, size=(16, 12))
    age(tmp_path / "data")
    return images, depth


def age(root, hours=1):
    then = time.time_ns() - hours * HOUR_NS
    for path in [root, *root.rglob("*")]:
        os.utime(path, ns=(then, then))


def index(split, **kwargs):
    made = OPV2VIndex(split[0], "train", split[1], **kwargs)
    assert len(made.T_world_rig) == len(made.frames)
    return made


@pytest.fixture
def readings(monkeypatch):
    """How often poses were read from YAML files."""
    seen = []
    monkeypatch.setattr(poses, "read_lidar_pose", lambda path: (seen.append(path), read_lidar_pose(path))[1])
    return seen


def test_a_second_index_reads_no_file(split, readings):
    first = index(split)
    assert len(readings) == 6
    second = index(split)
    assert len(readings) == 6
    assert first.frames == second.frames
    assert first.skipped == second.skipped
    for key, T in first.T_world_rig.items():
        np.testing.assert_array_equal(T, second.T_world_rig[key])
        np.testing.assert_allclose(T, next(e for e in first.frames if e.key == key).lidar_pose(), atol=1e-12)


def _add(agent):
    for path in list(agent.glob("000068*")):
        path.with_name(path.name.replace("000068", "000099")).write_bytes(path.read_bytes())


def _pose(agent):
    path = agent / "000070.yaml"
    path.write_text(path.read_text() + "# longer\n")


def _same_size(agent):
    path = agent / "000070.yaml"
    path.write_text(path.read_text().replace("ego_speed: 10.0", "ego_speed: 11.0"))


def _folder(agent):
    agent.rename(agent.with_name("9999"))


@pytest.mark.parametrize(
    "change",
    [_add, lambda a: (a / "000072.yaml").unlink(), lambda a: (a / "000070_camera1.png").unlink(),
     lambda a: (a / "000070.pcd").unlink(), _pose, _same_size, _folder],
    ids=["frame added", "frame removed", "photograph removed", "cloud removed", "YAML grew", "YAML edited", "renamed"],
)  # fmt: skip
def test_changes_are_noticed(split, readings, change):
    index(split)
    change(split[0] / "train" / "2021_08_20_21_10_00" / "105")
    kept = OPV2VIndex(split[0], "train")
    fresh = index((split[0], None))
    assert len(readings) > 6
    assert kept.frames == fresh.frames


def test_depth_that_disappears_is_noticed(split):
    index(split)
    next(split[1].rglob("*_depth.npy")).unlink()
    assert sum(entry.depth_paths is not None for entry in index(split).frames) == 5


def test_what_is_not_noticed(split, readings):
    """The contents of photographs (nothing of them is kept), and a YAML forged to the same size and time."""
    index(split)
    agent = split[0] / "train" / "2021_08_20_21_10_00" / "105"
    before = (agent / "000070.yaml").stat()
    _same_size(agent)
    os.utime(agent / "000070.yaml", ns=(before.st_atime_ns, before.st_mtime_ns))
    (agent / "000070_camera0.png").write_bytes(b"")
    index(split)
    assert len(readings) == 6


def test_files_younger_than_two_seconds_are_not_trusted(split, readings):
    agent = split[0] / "train" / "2021_08_20_21_10_00" / "105"
    os.utime(agent)
    index(split)
    index(split)
    assert len(readings) == 12


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"PK junk", lambda b: b[::-1]]
)
def test_a_damaged_index_is_made_again(split, readings, damage):
    first = index(split)
    (kept,) = index_cache.cache_folder().glob("*.npz")
    kept.write_bytes(damage(kept.read_bytes()))
    assert index(split).frames == first.frames
    assert index(split).frames == first.frames
    assert len(readings) == 12  # made again once


def test_a_pickle_in_its_place_is_not_opened(split, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    index(split)
    (kept,) = index_cache.cache_folder().glob("*.npz")
    np.savez(kept, meta=np.array([Trap()], dtype=object))
    assert len(index(split)) == 6
    assert not (tmp_path / "sprung").exists()


def test_other_questions_have_their_own_index(split, readings):
    index(split)
    assert index(split, cameras="auto").frames[0].any_rig
    assert index((split[0], None)).frames[0].depth_paths is None
    assert index(split, cameras=["camera0"]).frames[0].camera_names == ("camera0",)
    assert len(list(index_cache.cache_folder().glob("*.npz"))) == 4
    assert index(split).frames[0].depth_paths is not None


def test_unreadable_poses_and_skipped_frames_are_kept_as_such(split, readings):
    agent = split[0] / "train" / "2021_08_20_21_10_00" / "105"
    (agent / "000070.yaml").write_text("lidar_pose: nowhere\n")
    (agent / "000072_camera0.png").unlink()
    age(split[0])
    first, second = index(split), index(split)
    assert len(readings) == 5
    assert first.skipped == second.skipped
    assert first.skipped[0].reason == "no photograph of camera0"
    assert "key 'lidar_pose' is str 'nowhere'" in first.skipped[1].reason
    assert len(first) == len(second) == 4
    assert {e.key for i in first.instants for e in i.entries} == first.T_world_rig.keys()


def test_an_unwritable_cache_folder_is_no_error(split, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COOP3D_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert len(index(split)) == 6


def test_where_it_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("COOP3D_CACHE_DIR", str(tmp_path))
    assert index_cache.cache_folder() == tmp_path
    monkeypatch.delenv("COOP3D_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert index_cache.cache_folder() == tmp_path / "xdg" / "coop3d"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert index_cache.cache_folder() == tmp_path / "home" / ".cache" / "coop3d"


def test_listing_opens_no_file(split, monkeypatch):
    monkeypatch.setattr(listing.Path, "open", None)
    monkeypatch.setattr(listing.Path, "read_text", None)
    assert len(listing.list_split(split[0] / "train", split[1] / "train", DEFAULT_CAMERAS).frames) == 6


SPELLINGS = [
    "lidar_pose:\n- 1.0\n- -2.5\n- 3\n- 0.0\n- 1.5e+2\n- -0.25\n",
    "a: 1\nlidar_pose: [1.0, -2.5, 3, 0.0, 1.5e+2, -0.25]\nvehicles: {}\n",
    "lidar_pose:\n  - 1.0\n  - -2.5\n  - 3\n  - 0.0\n  - 150.0\n  - -0.25\nz: 1\n",
    "lidar_pose: # metres, degrees\n- 1.0\n- -2.5\n- 3 # up\n- 0.0\n- 150.0\n- -0.25\n",
    "lidar_pose: !!python/tuple\n- 1.0\n- -2.5\n- 3\n- 0.0\n- 150.0\n- -0.25\nz: 1\n",
    "'lidar_pose': [1.0, -2.5, 3, 0.0, 150.0, -0.25]\n",
    "{lidar_pose: [1.0, -2.5, 3, 0.0, 150.0, -0.25], b: 2}\n",
    "lidar_pose:\r\n- 1.0\r\n- -2.5\r\n- 3\r\n- 0.0\r\n- 150.0\r\n- -0.25\r\nb: 1\r\n",
    "lidar_pose_clean: [0, 0, 0, 0, 0, 0]\nlidar_pose: [1.0, -2.5, 3, 0.0, 150.0, -0.25]\n",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_spelling_of_a_pose_is_read(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode())
    np.testing.assert_array_equal(read_lidar_pose(path), [1.0, -2.5, 3, 0, 150, -0.25])


@given(
    st.lists(st.text("0123456789.-+eE_xo", min_size=1, max_size=6), min_size=5, max_size=7),
    st.sampled_from(["lidar_pose:\n{}", "lidar_pose: [{}]\n", "x: 1\nlidar_pose:\n{}z: 2\n"]),
)
@settings(max_examples=300, deadline=None)
def test_the_fast_path_never_differs_from_the_parser(tmp_path_factory, numbers, layout):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    body = ", ".join(numbers) if "[" in layout else "".join(f"- {n}\n" for n in numbers)
    path.write_text(layout.format(body))
    fast = poses._plain_pose(path.read_bytes())
    if fast is not None:
        np.testing.assert_array_equal(fast, np.array(load_yaml(path)["lidar_pose"], float))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "key 'lidar_pose' is missing"),
        ("lidar_pose:\n- 1.0\n- 2.0\n", r"key 'lidar_pose' is shape \(2,\)"),
        ("lidar_pose: [1, 2, 3, 4, 5, .nan]\n", "contains NaN"),
        ("lidar_pose: [1, 2, 3, 4, 5, 6\n", "not a YAML file"),
        ("lidar_pose: !!python/object/apply:os.getcwd []\n", "not a YAML file this reader accepts"),
    ],
)
def test_bad_poses_are_named(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_lidar_pose(path)
    assert str(path) in str(error.value)


def test_the_last_of_two_poses_counts_as_in_yaml(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("lidar_pose: [1, 1, 1, 1, 1, 1]\nlidar_pose: [2, 2, 2, 2, 2, 2]\n")
    assert yaml.safe_load(path.read_text())["lidar_pose"][0] == read_lidar_pose(path)[0] == 2
