"""Cooperative samples: who joins, in what order, in which frame; determinism; bad samples; no leaks."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from support.opv2v_files import write_dataset

from coop3d.datasets import (
    Augmentation,
    BadSample,
    CooperativeDataset,
    DataError,
    PinholeViews,
    StitchedPanoramas,
    VehicleSampling,
    collate_coop,
    mirror,
    roll_yaw,
)
from coop3d.geometry import EquirectangularCamera
from coop3d.types import ViewInputs

CAMERA = EquirectangularCamera(112, 28)
POSITIONS = ((0.0, 0.0, 0.0), (3.0, 18.0, 20.0), (-3.0, -6.0, 175.0), (2.0, 70.0, 0.0))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("opv2v"), frames=2, positions=POSITIONS, size=(160, 120))


def dataset(roots, augmentation=None, seed=0, max_samples=None, **sampling):
    source = StitchedPanoramas(roots[0], "train", CAMERA, roots[1])
    return CooperativeDataset(source, VehicleSampling(**sampling), augmentation, seed, max_samples)


def agents(ds, index=0, epoch=0):
    return [key.agent for key in ds.keys_of(epoch, index)]


def test_batch_has_the_documented_shapes_and_the_reference_first(roots):
    batch = collate_coop([dataset(roots, vehicles=3)[i] for i in range(2)]).batch
    assert batch.inputs.shape == (2, 3, 28, 112)
    assert batch.targets.range_m.shape == (2, 3, 28, 112)
    assert batch.targets.source.dtype == torch.uint8
    assert batch.targets.vehicle.tolist() == [0, 1, 2]
    torch.testing.assert_close(batch.targets.T_ref_view[:, 0], torch.eye(4).expand(2, 4, 4))
    assert 0 <= batch.inputs.image.min() < batch.inputs.image.max() <= 1


def test_one_sample_is_a_batch_already_and_two_are_put_together(roots):
    """In workers, where the copy of a sample of seven vehicles takes as long as reading it."""
    one, two = (dataset(roots, vehicles=3)[i] for i in range(2))
    alone, both = collate_coop([one]).batch, collate_coop([one, two]).batch
    assert alone.inputs.image is one.batch.inputs.image
    assert alone.inputs.rays is alone.targets.rays
    assert both.inputs.rays is both.targets.rays
    for i, sample in enumerate((one, two)):
        assert torch.equal(both.inputs.image[i], sample.batch.inputs.image[0])
        assert torch.equal(both.targets.T_ref_view[i], sample.batch.targets.T_ref_view[0])
    # the layout in memory decides which kernels a network runs
    assert alone.inputs.image.is_contiguous()
    assert both.inputs.image.is_contiguous()


def test_points_of_all_vehicles_agree_in_the_reference_frame(roots):
    """Every vehicle's points, moved by its true pose, lie on the analytic ground or boxes of one world."""
    ds = dataset(roots, vehicles=3)
    batch = ds[0].batch
    T_world_ref = ds.source.index.T_world_rig[batch.keys[0][0]]
    points = batch.targets.points_ref[batch.targets.valid].double().numpy()
    world = points @ T_world_ref[:3, :3].T + T_world_ref[:3, 3]
    from support.analytic import street

    scene = street((2.0, -3.0))
    point, normal = scene.planes[0]
    distance = np.abs((world - point) @ normal)
    for centre, R, half in scene.boxes:
        local = np.abs((world - centre) @ R) - half
        distance = np.minimum(
            distance, np.abs(np.linalg.norm(np.maximum(local, 0), axis=1) + local.max(1).clip(max=0))
        )
    for centre, radius in scene.spheres:
        distance = np.minimum(distance, np.abs(np.linalg.norm(world - centre, axis=1) - radius))
    assert np.median(distance) < 1e-3
    assert (distance < 0.05).mean() > 0.99


def test_pair_policies_and_distance_limit(roots):
    assert agents(dataset(roots, vehicles=2, pair_policy="first")) == ["105", "205"]
    assert agents(dataset(roots, vehicles=2, pair_policy="nearest")) == ["105", "305"]
    assert agents(dataset(roots, vehicles=(1, 4), max_distance_m=None, reference="405"))[0] == "405"
    assert agents(
        dataset(roots, vehicles=2, pair_policy="nearest", max_distance_m=None, reference="405")
    ) == [
        "405",
        "205",
    ]
    drawn = {tuple(agents(dataset(roots, vehicles=2, pair_policy="random"), epoch=e)) for e in range(20)}
    assert drawn == {("105", "205"), ("105", "305")}  # 405 is beyond 60 m
    with pytest.raises(DataError, match=r"none of 2 instants has 4 vehicles within 30\.0 m"):
        dataset(roots, vehicles=4, max_distance_m=30.0)


def test_a_reference_may_be_a_number_as_yaml_gives_it(roots):
    assert agents(dataset(roots, vehicles=2, max_distance_m=None, reference=405))[0] == "405"


def test_random_reference_and_variable_number(roots):
    ds = dataset(roots, vehicles=(1, 3), reference="random", shuffle_others=True)
    plans = [ds.keys_of(epoch, 0) for epoch in range(60)]
    assert {len(p) for p in plans} == {1, 2, 3}
    assert {p[0].agent for p in plans} == {"105", "205", "305", "405"}
    assert len({tuple(k.agent for k in p) for p in plans if len(p) == 3 and p[0].agent == "105"}) > 1
    assert all(ds.num_views_of(e, 0) == len(p) for e, p in enumerate(plans))


def test_same_request_same_sample_other_epoch_other_sample(roots):
    ds = dataset(roots, Augmentation(), vehicles=2)
    a, b, c = ds[(3, 1)].batch, ds[(3, 1)].batch, ds[(4, 1)].batch
    assert torch.equal(a.inputs.image, b.inputs.image)
    assert not torch.equal(a.inputs.image, c.inputs.image)
    other = dataset(roots, Augmentation(), seed=1, vehicles=2)[(3, 1)].batch
    assert not torch.equal(a.inputs.image, other.inputs.image)


def world_points(panorama):
    R, t = panorama.T_world_pano[:3, :3], panorama.T_world_pano[:3, 3]
    return panorama.points_pano().astype(float) @ R.T + t


@pytest.mark.parametrize("columns", [0, 1, -37, 56, 111])
def test_yaw_roll_moves_no_world_point(roots, columns):
    source = dataset(roots).source
    panorama = source.load(source.index.frames[0])[0]
    rolled = roll_yaw(panorama, columns)
    expected = np.roll(world_points(panorama), columns, axis=1)
    np.testing.assert_allclose(world_points(rolled), expected, atol=2e-4)
    np.testing.assert_array_equal(rolled.rgb, np.roll(panorama.rgb, columns, axis=1))


def test_a_mirrored_world_lies_across_a_plane(roots):
    """Every world point changes the sign of x and no more; pixels are read from right to left."""
    source = dataset(roots).source
    for frame in source.index.frames[:3]:
        panorama = source.load(frame)[0]
        mirrored = mirror(panorama)
        np.testing.assert_allclose(
            world_points(mirrored), world_points(panorama)[:, ::-1] * (-1.0, 1.0, 1.0), atol=2e-4
        )
        np.testing.assert_array_equal(mirrored.rgb, panorama.rgb[:, ::-1])
        np.testing.assert_array_equal(mirrored.source, panorama.source[:, ::-1])
        assert np.linalg.det(mirrored.T_world_pano[:3, :3]) == pytest.approx(1.0)
        np.testing.assert_allclose(mirror(mirrored).T_world_pano, panorama.T_world_pano)


def test_all_vehicles_of_a_sample_are_mirrored_together(roots):
    """Points of one vehicle, moved into the reference's frame by the pose of the batch, change sides there."""
    plain = dataset(roots, vehicles=2)
    always, sometimes = (
        dataset(roots, Augmentation(False, 0, 0, 0, 0, mirror=p), vehicles=2) for p in (1.0, 0.5)
    )
    a, b = plain[0].batch.targets, always[0].batch.targets
    for v in range(2):
        before, after = (
            (t.origins[0, v] + t.range_m[0, v, ..., None] * t.rays[0, v]) @ t.T_ref_view[0, v, :3, :3].mT
            + t.T_ref_view[0, v, :3, 3]
            for t in (a, b)
        )
        expected = before.flip(1) * torch.tensor([-1.0, 1.0, 1.0])
        torch.testing.assert_close(after, expected, atol=1e-3, rtol=0, equal_nan=True)
    images = [sometimes[(epoch, 0)].batch.inputs.image for epoch in range(40)]
    flipped = sum(torch.allclose(x, plain[0].batch.inputs.image.flip(-1), atol=0.01) for x in images)
    straight = sum(torch.allclose(x, plain[0].batch.inputs.image, atol=0.01) for x in images)
    assert flipped + straight == 40
    assert 10 <= flipped <= 30


def test_photographs_are_not_mirrored(roots):
    source = PinholeViews(roots[0], "train", 56, 42, roots[1])
    with pytest.raises(ValueError, match="mirroring needs a 360 degree camera, found PinholeCamera"):
        mirror(source.load(source.index.frames[0])[0])


def test_photometric_jitter_leaves_geometry_and_black_alone(roots):
    plain = dataset(roots, vehicles=2)[0].batch
    jittered = dataset(roots, Augmentation(yaw_roll=False), vehicles=2)[0].batch
    assert not torch.equal(plain.inputs.image, jittered.inputs.image)
    assert torch.equal(plain.targets.range_m.nan_to_num(), jittered.targets.range_m.nan_to_num())
    uncovered = ~plain.targets.covered
    assert jittered.inputs.image.movedim(2, -1)[uncovered].max() == 0
    still = dataset(roots, Augmentation(False, 0, 0, 0, 0), vehicles=2)[0].batch
    torch.testing.assert_close(plain.inputs.image, still.inputs.image, atol=1.1 / 255, rtol=0)


def test_inputs_hold_nothing_but_photographs_and_calibration():
    assert {f.name for f in fields(ViewInputs)} == {"image", "rays", "origins"}


def test_inputs_do_not_depend_on_depth_or_on_poses_between_vehicles(roots):
    with_depth = dataset(roots, vehicles=2)[0].batch.inputs
    without = CooperativeDataset(StitchedPanoramas(roots[0], "train", CAMERA), VehicleSampling(2))[
        0
    ].batch.inputs
    for name in ("image", "rays", "origins"):
        assert torch.equal(getattr(with_depth, name), getattr(without, name))


def test_pinhole_baseline_has_four_views_per_vehicle(roots):
    source = PinholeViews(roots[0], "train", 56, 42, roots[1])
    ds = CooperativeDataset(source, VehicleSampling(2))
    batch = ds[0].batch
    assert batch.inputs.shape == (1, 8, 42, 56)
    assert ds.num_views_of(0, 0) == 8
    assert batch.targets.vehicle.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert batch.inputs.origins.abs().max() < 1e-6
    # back camera of the reference relative to its front camera: 4.5 m behind, half a metre up, turned around
    T = batch.targets.T_ref_view[0, 3]
    torch.testing.assert_close(T[:3, 3], torch.tensor([0.0, -0.5, -4.5]), atol=1e-4, rtol=0)
    torch.testing.assert_close(T[:3, 2], torch.tensor([0.0, 0.0, -1.0]), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="yaw roll needs a 360 degree camera"):
        roll_yaw(source.load(source.index.frames[0])[0], 3)


def test_bad_files_become_bad_samples_and_are_not_replaced(tmp_path):
    images, depth = write_dataset(tmp_path, frames=2)
    victim = next(images.rglob("000068_camera0.png"))
    victim.write_bytes(b"junk")
    ds = CooperativeDataset(StitchedPanoramas(images, "train", CAMERA, depth), VehicleSampling(2))
    samples = [ds[i] for i in range(len(ds))]
    assert [isinstance(s, BadSample) for s in samples] == [True, False]
    assert str(victim) in samples[0].reason
    collated = collate_coop(samples)
    assert collated.batch.inputs.shape[0] == 1
    assert collated.bad == (samples[0],)
    assert collate_coop(samples[:1]).batch is None


def test_unreadable_pose_is_skipped_while_indexing(tmp_path, caplog):
    images, depth = write_dataset(tmp_path, frames=2)
    broken = next(images.rglob("000070.yaml"))
    broken.write_text("lidar_pose: nonsense\n")
    ds = CooperativeDataset(StitchedPanoramas(images, "train", CAMERA, depth), VehicleSampling(2))
    assert len(ds) == 1
    assert ds.unusable_instants == 1
    assert str(broken) in caplog.text


def test_roadside_unit_is_never_the_reference(tmp_path):
    images, depth = write_dataset(tmp_path, frames=1)
    for root in (images, depth):
        folder = next(root.rglob("105"))
        folder.rename(folder.with_name("-1"))
    ds = CooperativeDataset(
        StitchedPanoramas(images, "train", CAMERA, depth), VehicleSampling(2, reference="random")
    )
    assert {ds.keys_of(e, 0)[0].agent for e in range(20)} == {"205"}


def test_max_samples_spreads_over_the_split_and_fingerprint_tells_splits_apart(tmp_path):
    images, depth = write_dataset(tmp_path, scenarios=2, frames=4, size=(16, 12))
    source = StitchedPanoramas(images, "train", CAMERA, depth)
    full, few = CooperativeDataset(source), CooperativeDataset(source, max_samples=3)
    assert (len(full), len(few)) == (8, 3)
    assert {few.keys_of(0, i)[0].scenario for i in range(3)} == {"2021_08_20_21_10_00", "2021_08_20_21_10_01"}
    assert full.fingerprint() == CooperativeDataset(source).fingerprint() != few.fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vehicles": 0}, "expected n >= 1"),
        ({"vehicles": (3, 2)}, "min <= max"),
        ({"pair_policy": "closest"}, "expected one of"),
        ({"max_distance_m": -1.0}, "positive number"),
    ],
)
def test_impossible_sampling_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VehicleSampling(**options)


def test_augmentation_values_are_checked():
    with pytest.raises(ValueError, match=r"augmentation contrast is 1\.5"):
        Augmentation(contrast=1.5)


def test_distance_of_a_sample_is_that_of_its_farthest_vehicle(roots):
    ds = dataset(roots, vehicles=2)
    T_ref_view = ds[0].batch.targets.T_ref_view
    assert ds.distance_of(0, 0) == pytest.approx(float(T_ref_view[0, 1, :3, 3].norm()), rel=1e-5)
    assert dataset(roots, vehicles=1).distance_of(0, 0) == 0.0
