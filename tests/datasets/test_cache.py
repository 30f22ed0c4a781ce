"""Panorama cache: the file's format, the same tensors as from the files, many workers, shards, errors."""

import json
import multiprocessing
import pickle
import shutil

import h5py
import numpy as np
import pytest
import torch
from support.opv2v_files import write_dataset
from support.processes import METHOD
from torch.utils.data import DataLoader

from coop3d.conf import ConfigError, build, compose, require_paths, require_targets
from coop3d.datasets import (
    Augmentation,
    BadSample,
    CachedPanoramas,
    CooperativeDataset,
    DataError,
    StitchedPanoramas,
    VehicleSampling,
    collate_coop,
    panorama_source,
)
from coop3d.datasets.cache import CacheBuilder, CacheFile, verify
from coop3d.datasets.cache.format import decode, encode, images_of
from coop3d.datasets.cache.verify import unequal_fields
from coop3d.datasets.recipe import PanoramaRecipe, settle_rig
from coop3d.datasets.synthetic import SyntheticConfig, make_synthetic_opv2v
from coop3d.geometry import CylindricalCamera, EquirectangularCamera
from coop3d.stitching.stitcher import EXPOSURES, KINDS

CAMERA = EquirectangularCamera(112, 28)
SYNTHETIC = SyntheticConfig(
    seed=5, image_size=(96, 72), scenarios={"train": 1}, frames=2, vehicles=(3, 3), lidar_points=200
)
SAMPLING = VehicleSampling((2, 3), reference="random", pair_policy="random", max_distance_m=None)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    make_synthetic_opv2v(root / "images", root / "depth", SYNTHETIC, progress=False)
    return root / "images", root / "depth"


@pytest.fixture(scope="module")
def built(roots, tmp_path_factory):
    """(raw source, cache file) of dense depth."""
    raw = StitchedPanoramas(roots[0], "train", CAMERA, roots[1])
    path = tmp_path_factory.mktemp("cache") / "train.h5"
    CacheBuilder(path, raw.index, raw.recipe).build(progress=False)
    return raw, path


@pytest.fixture
def copy(built, tmp_path):
    """A file to damage."""
    return shutil.copy(built[1], tmp_path / "train.h5")


def batch_fields(batch):
    yield "keys", batch.keys
    for part in ("inputs", "targets"):
        for name, value in vars(getattr(batch, part)).items():
            yield f"{part}.{name}", value


def assert_equal_batches(a, b):
    assert torch.equal(a.targets.range_m.isnan(), b.targets.range_m.isnan())
    for (name, x), (_, y) in zip(batch_fields(a), batch_fields(b), strict=True):
        if not isinstance(x, torch.Tensor):
            assert x == y, name
            continue
        assert x.dtype == y.dtype, name
        assert (
            torch.equal(x.nan_to_num(-1.0), y.nan_to_num(-1.0))
            if x.is_floating_point()
            else torch.equal(x, y)
        ), name


@pytest.mark.parametrize("options", [
    {"depth_source": "auto"}, {"depth_source": "dense", "centre": "rig_centroid"}, {"depth_source": "lidar"},
    {"depth_source": "fused"}, {"depth_source": "none"},
    *({"kind": kind, "depth_source": "dense"} for kind in KINDS if kind != "rig"),
    *({"exposure": exposure} for exposure in EXPOSURES if exposure != "as_is"),
    {"camera": CylindricalCamera(112, 28, 80.0, -2.0), "depth_source": "lidar"},
], ids=str)  # fmt: skip
def test_cache_and_files_give_the_same_tensors(roots, tmp_path, options):
    options = {"camera": CAMERA, **options}
    raw = StitchedPanoramas(roots[0], "train", depth_root=roots[1], **options)
    CacheBuilder(tmp_path / "train.h5", raw.index, raw.recipe).build(progress=False)
    cached = panorama_source("/nowhere", "train", panoramas="cache", cache_root=tmp_path, **options)
    a = CooperativeDataset(raw, SAMPLING, Augmentation(), seed=1)
    b = CooperativeDataset(cached, SAMPLING, Augmentation(), seed=1)
    assert (len(a), a.fingerprint()) == (len(b), b.fingerprint())
    assert a[0].batch.targets.valid.any() == (options.get("depth_source") != "none")
    for request in [(0, 0), (0, 1), (1, 0), (2, 1)]:
        assert_equal_batches(a[request].batch, b[request].batch)
    for entry, other in zip(raw.index.frames, cached.index.frames, strict=True):
        assert entry.key == other.key
        assert unequal_fields(raw.load(entry)[0], cached.load(other)[0]) == []
        np.testing.assert_array_equal(raw.index.T_world_rig[entry.key], cached.index.T_world_rig[entry.key])


def test_a_panorama_does_not_depend_on_which_frame_of_a_rig_came_first(roots):
    """World poses have round-off of their own, so the rig recovered from each frame differs in its last bits."""
    entries = StitchedPanoramas(roots[0], "train", CAMERA, roots[1]).index.frames
    recipe = PanoramaRecipe(CAMERA)
    frames = [recipe.load_frame(e) for e in entries]
    poses = [np.stack([v.T_rig_cam for v in settle_rig(f).views]) for f in frames]
    for other in poses[1:]:
        np.testing.assert_array_equal(poses[0], other)
    used, fresh = recipe.stitcher(), recipe.stitcher()
    used(frames[0])
    assert unequal_fields(used(frames[-1]), fresh(frames[-1])) == []


def test_layout_is_readable_without_this_project(built):
    """Root attributes and datasets as documented, read by plain h5py; values against the stitched panorama."""
    raw, path = built
    with h5py.File(path, "r") as file:
        attributes = dict(file.attrs)
        config = json.loads(attributes.pop("config"))
        assert attributes == {
            "format": "coop3d-panorama", "version": 1, "width": 112, "height": 28, "vertical_fov_deg": 90.0,
            "elevation_center_deg": 0.0, "projection": "equirectangular", "kind": "rig", "depth_source": "auto",
            "centre": "lidar",
        }  # fmt: skip
        assert len(config["settings"]["frames_sha256"]) == 64
        assert config["provenance"]["images_root"] == str(raw.index.images_root)
        n = len(raw.index)
        layout = {name: (d.dtype.str, d.shape) for name, d in file.items() if isinstance(d, h5py.Dataset)}
        text = layout.pop("scenario"), layout.pop("agent"), layout.pop("frame"), layout.pop("problem")
        assert text == (("|O", (n,)),) * 4
        assert layout == {
            "rgb": ("|u1", (n, 28, 112, 3)), "range_m": ("<f4", (n, 28, 112)), "flags": ("|u1", (n, 28, 112)),
            "T_world_pano": ("<f8", (n, 4, 4)), "T_world_rig": ("<f8", (n, 4, 4)), "rig": ("<u2", (n,)),
            "complete": ("|u1", (n,)),
        }  # fmt: skip
        assert {name: d.shape for name, d in file["rigs/0"].items()} == {
            "source": (28, 112), "origins": (4, 3), "T_pano_cam": (4, 4, 4), "intrinsics": (4, 3, 3),
        }  # fmt: skip
        assert list(file["rigs"]) == ["0"]  # equal rigs share one
        assert file["rgb"].chunks == (1, 28, 112, 3)
        for row, entry in enumerate(raw.index.frames):
            (panorama,) = raw.load(entry)
            assert entry.key == tuple(file[k].asstr()[row] for k in ("scenario", "agent", "frame"))
            np.testing.assert_array_equal(file["rgb"][row], panorama.rgb)
            np.testing.assert_array_equal(file["range_m"][row], panorama.range_m)
            np.testing.assert_array_equal(file["T_world_pano"][row], panorama.T_world_pano)
            for bit, name in enumerate(("covered", "valid", "non_ambiguous", "mask_known")):
                np.testing.assert_array_equal(file["flags"][row] >> bit & 1, getattr(panorama, name))
        assert (file["complete"][()] == 1).all()


@pytest.mark.parametrize("level", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("name", ["rgb", "range_m", "flags", "source"])
def test_chunks_are_those_of_hdf5_itself(tmp_path, level, name):
    spec = images_of("central")[name]
    rng = np.random.default_rng(0)
    image = rng.integers(0, 9, spec.shape(6, 8)).astype(spec.dtype)
    chunk = encode(image, spec, level)
    np.testing.assert_array_equal(decode(chunk, spec, image.shape, level), image)
    filters = {"compression": "gzip", "compression_opts": level, "shuffle": spec.shuffled} if level else {}
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", (1, *image.shape), spec.dtype, chunks=(1, *image.shape), **filters)
        dataset.id.write_direct_chunk((0,) * dataset.ndim, chunk)
        np.testing.assert_array_equal(dataset[0], image)


def _key_and_sum(source):
    entry = source.index.frames[0]
    return entry.key, int(source.load(entry)[0].rgb.sum())


@pytest.mark.parametrize("method", ["fork", METHOD])
def test_many_workers_read_at_once(built, method):
    source = CachedPanoramas(built[1])
    here = _key_and_sum(source)  # opens the file in this process first
    assert _key_and_sum(pickle.loads(pickle.dumps(source))) == here
    dataset = CooperativeDataset(source, SAMPLING)
    loader = DataLoader(
        dataset, batch_size=1, collate_fn=collate_coop, num_workers=2,
        multiprocessing_context=multiprocessing.get_context(method),
    )  # fmt: skip
    for i, collated in enumerate(loader):
        assert_equal_batches(collated.batch, dataset[i].batch)
    source.close()
    assert _key_and_sum(source) == here


@pytest.mark.parametrize("form", ["stem", "pattern", "list"])
def test_shards_read_as_one(built, tmp_path, form):
    raw, whole = built
    paths = []
    for i in range(2):
        builder = CacheBuilder(tmp_path / "train.h5", raw.index, raw.recipe, shard=(i, 2))
        paths.append(builder.build(progress=False).path)
    assert [p.name for p in paths] == ["train.shard-0-of-2.h5", "train.shard-1-of-2.h5"]
    files = {"stem": tmp_path / "train.h5", "pattern": str(tmp_path / "*.h5"), "list": paths[::-1]}[form]
    shards, one = CachedPanoramas(files), CachedPanoramas(whole)
    assert [e.key for e in shards.index.frames] == [e.key for e in one.index.frames]
    a, b = CooperativeDataset(shards, SAMPLING), CooperativeDataset(one, SAMPLING)
    for i in range(len(a)):
        assert_equal_batches(a[i].batch, b[i].batch)
    with pytest.raises(DataError, match=r"train\.shard-1-of-2\.h5 \(1 of 2\); expected every shard"):
        CachedPanoramas(paths[1])
    with pytest.raises(DataError, match=r"shard 0/2 and another|expected every shard"):
        CachedPanoramas([*paths, whole])


def test_unusable_frames_are_samples_that_say_why_as_from_the_files(tmp_path):
    images, depth = write_dataset(tmp_path, frames=3)
    victim = next(images.rglob("000070_camera0.png"))
    victim.write_bytes(b"junk")
    next(images.rglob("000072.yaml")).write_text("lidar_pose: nonsense\n")
    raw = StitchedPanoramas(images, "train", CAMERA, depth)
    summary = CacheBuilder(tmp_path / "train.h5", raw.index, raw.recipe).build(progress=False)
    assert [(key.agent, key.frame) for key in summary.problems] == [(victim.parent.name, "000070")]
    cached = CachedPanoramas(tmp_path / "train.h5")
    assert [s.key for s in cached.index.skipped] == list(summary.problems)
    a, b = CooperativeDataset(raw, VehicleSampling(2)), CooperativeDataset(cached, VehicleSampling(2))
    assert a.fingerprint() == b.fingerprint()
    assert [isinstance(b[i], BadSample) for i in range(len(b))] == [False, True]
    assert a[1].keys == b[1].keys
    assert str(victim) in b[1].reason


def test_verify_finds_what_changed(built, tmp_path):
    raw, path = built
    outcome = verify(path, raw.index, raw.recipe, samples=100)
    assert outcome.ok
    assert outcome.checked == len(raw.index)
    images = shutil.copytree(raw.index.images_root, tmp_path / "images")
    victim = sorted(images.rglob("*_camera0.png"))[0]
    shutil.copy(victim.with_name(victim.name.replace("camera0", "camera3")), victim)
    changed = StitchedPanoramas(images, "train", CAMERA, raw.index.depth_root)
    outcome = verify(path, changed.index, changed.recipe, samples=100)
    assert list(outcome.differing.values()) == ["rgb"]
    assert not outcome.ok


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def drop_config_setting(file):
    config = json.loads(file.attrs["config"])
    del config["settings"]["exposure"]
    file.attrs["config"] = json.dumps(config)


def hold_the_sky(file):
    """A file of the code that did not know CARLA's far plane, and did not say so."""
    config = json.loads(file.attrs["config"])
    del config["far_plane_m"]
    file.attrs["config"] = json.dumps(config)
    file["range_m"][5, 0, 0] = 1100.0


def resize_range(file):
    del file["range_m"]
    file["range_m"] = np.zeros((6, 28, 111), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.attrs.__setitem__("format", "zip"), "'format' is 'zip', expected 'coop3d-panorama'"),
        (lambda f: f.attrs.__setitem__("version", 2), "'version' is 2, this program reads 1"),
        (lambda f: f.attrs.__delitem__("width"), "'width' is missing"),
        (lambda f: f.attrs.__setitem__("kind", "central"), "kind: found 'central', wanted 'rig'"),
        (lambda f: f.attrs.__setitem__("centre", "roof"), "centre is 'roof', expected one of"),
        (lambda f: f.attrs.__setitem__("width", 224), r"dataset 'rgb' is uint8 of shape \(6, 28, 112, 3\), expected "
                                                      r"uint8 of shape \(6, 28, 224, 3\)"),
        (drop_config_setting, "'exposure' is missing"),
        (lambda f: f.__delitem__("range_m"), "dataset 'range_m' is missing, found"),
        (resize_range, r"'range_m' is float32 of shape \(6, 28, 111\)"),
        (lambda f: f.__delitem__("rigs/0/origins"), "'rigs/0/origins' is missing|'rigs/0"),
        (lambda f: f["complete"].__setitem__(2, 0), "1 of 6 panoramas are not complete"),
        (hold_the_sky, "holds the sky, 1000 m away, as a surface"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(copy, change, message):
    edit(copy, change)
    with pytest.raises(DataError, match=message) as caught:
        CachedPanoramas(copy)
    assert str(copy) in str(caught.value)
    assert "build_panorama_cache.py" in str(caught.value)


def test_terrain_farther_along_the_ray_than_the_far_plane_is_read(copy):
    """The far plane limits planar depth; in a photograph's corner the ray is nearly twice as long."""
    edit(copy, lambda f: f["range_m"].__setitem__((5, 0, 0), 1100.0))
    assert CachedPanoramas(copy).load(CachedPanoramas(copy).index.frames[5])[0].range_m[0, 0] == 1100.0


def test_damaged_files_are_named(copy, tmp_path):
    whole = copy.read_bytes()
    copy.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train\.h5: not a readable HDF5 file .*cut short"):
        CacheFile(copy)
    copy.write_bytes(whole)
    with h5py.File(copy, "r") as file:
        where = file["range_m"].id.get_chunk_info_by_coord((3, 0, 0))
    middle = where.byte_offset + where.size // 2
    copy.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    source = CachedPanoramas(copy)
    with pytest.raises(DataError, match=r"dataset 'range_m', row 3 \(.*\) cannot be read"):
        source.load(source.index.frames[3])
    with pytest.raises(DataError, match=r"absent\.h5: no such file, and no shards absent\.shard-0-of-2\.h5"):
        CachedPanoramas(tmp_path / "absent.h5")
    (tmp_path / "absent.h5.journal").touch()
    with pytest.raises(DataError, match=r"build is unfinished .*repeat the command"):
        CachedPanoramas(tmp_path / "absent.h5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera": EquirectangularCamera(224, 56)}, "width: found 112, wanted 224; height: found 28, wanted 56"),
        ({"camera": CylindricalCamera(112, 28)}, "projection: found 'equirectangular', wanted 'cylindrical'"),
        ({"depth_source": "lidar"}, "depth_source: found 'auto', wanted 'lidar'"),
        ({"centre": "rig_centroid"}, "centre: found 'lidar', wanted 'rig_centroid'"),
        ({"split": "test"}, "no such file, and no shards"),
    ],
)  # fmt: skip
def test_a_cache_of_other_panoramas_than_configured_is_refused(built, options, message):
    wanted = {"split": "train", "camera": CAMERA, **options}
    with pytest.raises(DataError, match=message):
        panorama_source("/nowhere", panoramas="cache", cache_root=built[1].parent, **wanted)


def test_impossible_switches(roots):
    with pytest.raises(ValueError, match="panoramas is 'h5', expected one of"):
        panorama_source(roots[0], "train", CAMERA, panoramas="h5")
    with pytest.raises(DataError, match=r"machine\.panorama_cache_root"):
        panorama_source(roots[0], "train", CAMERA, panoramas="cache")


def test_one_config_switch_reads_the_cache_and_needs_no_other_file(built, tmp_path):
    base = [
        "machine=demo", "dataset=opv2v_cyl_coop_demo", "model=tiny", "loss=cyl_loss", "train_params=demo",
        "dataset.camera.width=112", "dataset.camera.height=28", "dataset.train.sampling.max_distance_m=null",
    ]  # fmt: skip
    raw, path = built
    from_files = compose("train", [
        *base, f"machine.opv2v_images_root={raw.index.images_root}", f"machine.opv2v_depth_root={raw.index.depth_root}",
    ])  # fmt: skip
    root = f"machine.panorama_cache_root={path.parent}"
    from_cache = compose(
        "train", [*base, "dataset.panoramas=cache", root, "machine.opv2v_images_root=/nowhere"]
    )
    require_targets(from_cache, ("dataset",))
    require_paths(from_cache)
    a, b = build(from_files, "dataset.train"), build(from_cache, "dataset.train")
    assert isinstance(b.source, CachedPanoramas)
    for request in [(0, 0), (3, 1)]:
        assert_equal_batches(a[request].batch, b[request].batch)
    with pytest.raises(
        ConfigError, match=r"machine\.panorama_cache_root=.*absent does not exist.*build_panorama"
    ):
        require_paths(compose("train", [*base, "dataset.panoramas=cache", f"{root}/absent"]))
    with pytest.raises(ConfigError, match=r"dataset\.train: .*width: found 112, wanted 56"):
        build(
            compose("train", [*base, "dataset.panoramas=cache", root, "dataset.camera.width=56"]),
            "dataset.train",
        )
