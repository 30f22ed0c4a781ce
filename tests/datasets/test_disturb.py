"""Disturbed inputs: each does to the photographs, or to the rig, what it says, and no target moves by a bit."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from support.analytic import render_rig, street, vehicle_pose
from support.doc_examples import run_examples
from support.opv2v_files import write_dataset

from coop3d.datasets import (
    Augmentation,
    BadSample,
    CachedPanoramas,
    CooperativeDataset,
    DataError,
    PinholeViews,
    StitchedPanoramas,
    VehicleSampling,
)
from coop3d.datasets.cache import CacheBuilder
from coop3d.datasets.disturb import (
    Black,
    Defocus,
    DelayedDataset,
    Disturbance,
    DisturbedDataset,
    Exposure,
    Gamma,
    Jpeg,
    Motion,
    Noise,
    Rain,
    RigPosition,
    RigRotation,
    WhiteBalance,
    generator,
    obstacle,
)
from coop3d.datasets.disturb.photographs import disc, line
from coop3d.geometry import EquirectangularCamera
from coop3d.stitching import PanoramaStitcher
from coop3d.types import SampleKey

CAMERA = EquirectangularCamera(112, 28)
KEY = SampleKey("scenario", "1", "000070")
EVERY = (
    Black("left"), Exposure(1), WhiteBalance(0.5), Gamma(1.5), Defocus(40), Motion(60), Jpeg(10), Noise(20), Rain(100),
    RigRotation(5), RigPosition(0.1),
)  # fmt: skip


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture(scope="module")
def frame():
    return render_rig(street(), vehicle_pose(0, 0, 10), (400, 300), KEY)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("files"), frames=2)


@pytest.fixture(scope="module")
def clean(files):
    images, depth = files
    return CooperativeDataset(StitchedPanoramas(images, "train", CAMERA, depth), VehicleSampling(vehicles=2))


def light(levels):
    """IEC 61966-2-1, written out."""
    v = np.asarray(levels, float) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


# ---- inputs and targets


def assert_same_truth(disturbed, clean):
    for f in fields(clean.targets):
        torch.testing.assert_close(
            getattr(disturbed.targets, f.name), getattr(clean.targets, f.name), rtol=0, atol=0, equal_nan=True
        )
    assert disturbed.keys == clean.keys
    np.testing.assert_array_equal(disturbed.T_world_ref, clean.T_world_ref)


@pytest.mark.parametrize("disturbance", EVERY, ids=lambda d: d.family)
def test_inputs_change_and_no_target_does(clean, disturbance):
    truth, seen = clean[1].batch, DisturbedDataset(clean, disturbance)[1].batch
    assert_same_truth(seen, truth)
    if isinstance(disturbance, RigPosition):
        assert not torch.equal(seen.inputs.origins, truth.inputs.origins)
    for v in range(2):
        assert isinstance(disturbance, RigPosition) or not torch.equal(
            seen.inputs.image[0, v], truth.inputs.image[0, v]
        )
    assert torch.equal(seen.inputs.rays, truth.inputs.rays)


class Nothing(Disturbance):
    family: ClassVar[str] = "nothing"

    def __call__(self, frame, rng):
        return frame


def test_no_disturbance_is_the_clean_sample_bit_for_bit(clean):
    truth, seen = clean[0].batch, DisturbedDataset(clean, Nothing())[0].batch
    for f in fields(truth.inputs):
        value = getattr(truth.inputs, f.name)
        assert value is None or torch.equal(getattr(seen.inputs, f.name), value)


def test_the_same_numbers_whoever_asks_in_whatever_order(clean):
    disturbed = DisturbedDataset(clean, Noise(10), seed=4)
    first, _, again = disturbed[0].batch, disturbed[1].batch, disturbed[(0, 0)].batch
    assert torch.equal(first.inputs.image, again.inputs.image)
    other = DisturbedDataset(clean, Noise(10), seed=5)[0].batch
    assert not torch.equal(first.inputs.image, other.inputs.image)
    later, elsewhere = KEY._replace(frame="000072"), KEY._replace(agent="2")
    drawn = [generator(0, "rig", k, per_vehicle=True).random() for k in (KEY, later, elsewhere)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert generator(0, "noise", KEY).random() != generator(0, "noise", later).random()


def test_augmented_samples_are_refused(files):
    source = StitchedPanoramas(files[0], "train", CAMERA, files[1])
    with pytest.raises(ValueError, match="augmented samples cannot be paired"):
        DisturbedDataset(CooperativeDataset(source, augmentation=Augmentation()), Noise(5))


# ---- one level of one camera at a time


@pytest.mark.parametrize(("side", "camera"), [("front", 0), ("right", 1), ("left", 2), ("back", 3)])
def test_a_black_camera_owns_the_black_pixels(frame, side, camera):
    stitch = PanoramaStitcher(CAMERA)
    clean, seen = stitch(frame), stitch(Black(side)(frame, rng()))
    mine = clean.source == camera
    assert clean.rgb[mine].any()
    assert not seen.rgb[mine].any()
    np.testing.assert_array_equal(seen.rgb[~mine], clean.rgb[~mine])
    np.testing.assert_array_equal(Black(side).on_panorama(clean, rng()).rgb, seen.rgb)


def test_any_camera_is_drawn_and_each_comes_up(frame):
    dark = []
    for seed in range(40):
        seen = Black("any")(frame, np.random.default_rng(seed))
        (k,) = [k for k, view in enumerate(seen.views) if not view.image.any()]
        dark.append(k)
    assert set(dark) == {0, 1, 2, 3}


def test_a_side_without_a_camera_is_a_data_error(frame):
    with pytest.raises(DataError, match="no camera looks to the back"):
        Black("back")(replace(frame, views=frame.views[:3]), rng())
    with pytest.raises(ValueError, match="side is 'top'"):
        Black("top")


def gains(before, after):
    """[K, 3] ratio of light, from levels in the middle that are far from rounding and clipping."""
    found = []
    for a, b in zip(before.views, after.views, strict=True):
        good = (a.image > 60) & (b.image > 60) & (b.image < 250)
        found.append(
            [
                np.median(light(b.image[..., c][good[..., c]]) / light(a.image[..., c][good[..., c]]))
                for c in range(3)
            ]
        )
    return np.array(found)


def test_exposure_differs_by_the_stops_it_says(frame):
    found = gains(frame, Exposure(1)(frame, rng()))
    np.testing.assert_allclose(np.sort(np.log2(found[:, 1])), [-1, -1 / 3, 1 / 3, 1], atol=0.02)
    np.testing.assert_allclose(found, found[:, 1:2].repeat(3, 1), rtol=0.02)


def test_white_balance_trades_red_for_blue(frame):
    found = np.log2(gains(frame, WhiteBalance(0.5)(frame, rng())))
    np.testing.assert_allclose(np.sort(found[:, 0]), [-1 / 2, -1 / 6, 1 / 6, 1 / 2], atol=0.02)
    np.testing.assert_allclose(found[:, 2], -found[:, 0], atol=0.03)
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-9)


def test_gamma_is_a_power_of_levels(frame):
    seen = Gamma(1.5)(frame, rng())
    powers = []
    for a, b in zip(frame.views, seen.views, strict=True):
        good = (a.image > 30) & (a.image < 200)
        powers.append(np.median(np.log(b.image[good] / 255) / np.log(a.image[good] / 255)))
    np.testing.assert_allclose(np.sort(powers), 1.5 ** np.array([-1, -1 / 3, 1 / 3, 1]), rtol=0.01)


def test_curves_on_a_finished_panorama_are_those_on_photographs(frame):
    stitch = PanoramaStitcher(CAMERA)
    for d in (Exposure(0.5), WhiteBalance(0.5), Gamma(1.25)):
        a, b = stitch(d(frame, rng())).rgb.astype(int), d.on_panorama(stitch(frame), rng()).rgb.astype(int)
        assert np.abs(a - b).mean() < 1
        assert np.quantile(np.abs(a - b), 0.99) <= 8  # edges, where levels are averaged first


# ---- whole photographs


@pytest.mark.parametrize("radius", [0.8, 2.0, 3.7])
def test_a_disc_has_the_shares_of_a_disc(radius):
    kernel = disc(radius)
    n = len(kernel) // 2
    edges = np.clip(np.arange(-n - 0.5, n + 1), -radius, radius)
    area = edges * np.sqrt(radius**2 - edges**2) + radius**2 * np.arcsin(edges / radius)
    np.testing.assert_allclose(kernel.sum(axis=0), np.diff(area) / (np.pi * radius**2), atol=2e-3)
    np.testing.assert_array_equal(kernel, kernel.T)


def test_a_line_has_the_shares_of_a_line():
    np.testing.assert_allclose(line(5.0), [[0.2] * 5])
    np.testing.assert_allclose(line(4.0), [[0.125, 0.25, 0.25, 0.25, 0.125]])
    np.testing.assert_allclose(line(0.3), [[1.0]])


@pytest.mark.parametrize(("blur", "wide"), [(Defocus(4), 7), (Motion(10), 1)])
def test_blur_spreads_light_and_keeps_it(blur, wide):
    image = np.zeros((41, 400, 3), np.uint8)  # 400 wide: half the pixels of 800
    image[20, 200] = 255
    seen = light(blur.photograph(image, rng()))
    assert seen.sum() == pytest.approx(3.0, rel=0.05)
    rows, columns = np.nonzero(seen[..., 0] > 1e-3)
    assert np.ptp(columns) + 1 == 5
    assert np.ptp(rows) + 1 == (5 if wide > 1 else 1)


def test_jpeg_is_what_another_encoder_makes_of_it(frame):
    image = frame.views[0].image
    errors = []
    for quality in (80, 30, 10):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2)
        other = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
        seen = Jpeg(quality).photograph(image, rng()).astype(int)
        assert np.abs(seen - other).mean() < 0.5
        errors.append(np.abs(seen - image).mean())
    assert errors == sorted(errors)
    with pytest.raises(ValueError, match="quality is 101"):
        Jpeg(101)


@pytest.mark.parametrize("level", [40, 128, 190])
def test_noise_has_its_deviation(level):
    seen = Noise(10).photograph(np.full((200, 200, 3), level, np.uint8), rng()).astype(float)
    assert seen.mean() == pytest.approx(level, abs=0.2)
    expected = np.sqrt(100 * (0.25 + 0.75 * level / 128) + 1 / 12)  # and rounding
    assert seen.std() == pytest.approx(expected, rel=0.02)
    assert np.corrcoef(seen[..., 0].ravel(), seen[..., 1].ravel())[0, 1] == pytest.approx(0, abs=0.02)


def test_rain_veils_evenly_and_draws_streaks():
    image = np.full((150, 200, 3), 90, np.uint8)
    image[:, 100:] = 180
    touched = []
    for percent in (25, 50, 100):
        seen = light(Rain(percent).photograph(image, rng()))
        left, right = np.quantile(seen[:, :100], 0.1), np.quantile(seen[:, 100:], 0.1)  # where no streak is
        whole = light(180) - light(90)
        assert right - left == pytest.approx(whole * (1 - 0.5 * percent / 100), rel=0.05)
        touched.append((seen[:, :100] > left + 0.02).mean())
    assert 0 < touched[0] < touched[1] < touched[2] < 0.5


# ---- rigs


def test_a_believed_rotation_has_its_angle_and_its_axis_does_not_depend_on_it(frame):
    turns = {}
    for angle in (0.5, 1.0):
        seen = RigRotation(angle)(frame, rng())
        for true, believed in zip(frame.views, seen.views, strict=True):
            vector = Rotation.from_matrix(true.T_rig_cam[:3, :3].T @ believed.T_rig_cam[:3, :3]).as_rotvec(
                degrees=True
            )
            assert np.linalg.norm(vector) == pytest.approx(angle, rel=1e-6)
            np.testing.assert_array_equal(believed.T_rig_cam[:3, 3], true.T_rig_cam[:3, 3])
            np.testing.assert_array_equal(believed.image, true.image)
            turns.setdefault(true.name, []).append(vector / angle)
    for a, b in turns.values():
        np.testing.assert_allclose(a, b, atol=1e-6)
    axes = np.array([a for a, _ in turns.values()])
    assert np.abs(axes @ axes.T - np.eye(4)).max() < 0.999  # each camera its own


def test_a_believed_position_is_as_far_off_as_it_says(frame):
    seen = RigPosition(0.1)(frame, rng())
    for true, believed in zip(frame.views, seen.views, strict=True):
        assert np.linalg.norm(believed.T_rig_cam[:3, 3] - true.T_rig_cam[:3, 3]) == pytest.approx(0.1)
        np.testing.assert_array_equal(believed.T_rig_cam[:3, :3], true.T_rig_cam[:3, :3])


@pytest.mark.parametrize("kind", ["panoramas", "photographs"])
@pytest.mark.parametrize("centre", ["lidar", "rig_centroid"])
def test_believed_ray_origins_lie_in_the_frame_of_the_targets(files, centre, kind):
    """Against the drawn directions: a frame about the mean of the believed cameras would take theirs away."""
    images, depth = files
    if kind == "panoramas":
        source = StitchedPanoramas(images, "train", CAMERA, depth, centre=centre)
    else:
        source = PinholeViews(images, "train", 40, 30, depth, frame="vehicle", centre=centre)
    single = CooperativeDataset(source, VehicleSampling(vehicles=2))
    truth, seen = single[0].batch, DisturbedDataset(single, RigPosition(0.1))[0].batch
    for vehicle, key in enumerate(truth.keys[0][:: source.views_per_vehicle]):
        drawn = generator(0, "position", key, per_vehicle=True).standard_normal((4, 3))
        expected = 0.1 * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        mine = truth.targets.vehicle == vehicle
        covered, camera = truth.targets.covered[0, mine], truth.targets.source[0, mine]
        if kind == "photographs":
            camera = torch.arange(4, dtype=torch.uint8)[:, None, None].expand_as(camera)
        moved = (seen.inputs.origins - truth.inputs.origins)[0, mine]
        for k in range(4):
            found = moved[covered & (camera == k)]
            np.testing.assert_allclose(found, np.broadcast_to(expected[k], found.shape), atol=1e-6)  # float32


def test_a_wrong_rig_shows_what_the_true_cameras_saw_elsewhere(frame):
    """Against ray tracing: a pixel's direction, by the believed rig, is another direction of the true camera."""
    scene, believed = street(), RigRotation(6.0)(frame, rng())
    seen = PanoramaStitcher(CAMERA, supersample=1)(believed)
    rays, errors, without = CAMERA.rays(), [], []
    T = frame.T_world_rig
    for k, (true, wrong) in enumerate(zip(frame.views, believed.views, strict=True)):
        mine = seen.source == k
        turned = rays[mine] @ wrong.T_rig_cam[:3, :3] @ true.T_rig_cam[:3, :3].T
        origin = (T @ true.T_rig_cam)[:3, 3]
        for directions, found in ((turned, errors), (rays[mine], without)):
            world = directions @ T[:3, :3].T
            distance = scene.trace(origin, world)
            near = distance < 15  # farther, the texture is finer than a pixel
            colour = scene.colour(origin + distance[near, None] * world[near]).astype(int)
            found.append(np.abs(colour - seen.rgb[mine][near]).mean(axis=1))
    assert np.median(np.concatenate(errors)) < 3
    assert np.median(np.concatenate(without)) > 20


# ---- delays


def test_others_are_seen_earlier_and_the_reference_now(clean):
    delayed = DelayedDataset(clean, 100)
    assert [delayed.is_there(0, i) for i in range(2)] == [False, True]
    before, now, seen = clean[0].batch, clean[1].batch, delayed[1].batch
    assert_same_truth(seen, now)
    assert torch.equal(seen.inputs.image[:, 0], now.inputs.image[:, 0])
    assert torch.equal(seen.inputs.image[:, 1], before.inputs.image[:, 1])
    assert not torch.equal(before.inputs.image[:, 1], now.inputs.image[:, 1])
    assert torch.equal(seen.inputs.origins, now.inputs.origins)
    missing = delayed[0]
    assert isinstance(missing, BadSample)
    assert "no frame of the same cameras 100 ms earlier" in missing.reason
    assert not DelayedDataset(clean, 50).is_there(0, 1)
    with pytest.raises(ValueError, match="multiple of 50"):
        DelayedDataset(clean, 30)


# ---- sources


def test_a_cache_bears_colours_and_says_what_the_rest_needs(clean, tmp_path):
    path = tmp_path / "train.h5"
    CacheBuilder(path, clean.source.index, clean.source.recipe).build(progress=False)
    cached = CooperativeDataset(CachedPanoramas(path), VehicleSampling(vehicles=2))
    a, b = (DisturbedDataset(d, Black("any"))[0].batch for d in (clean, cached))
    assert torch.equal(a.inputs.image, b.inputs.image)
    assert_same_truth(b, cached[0].batch)
    assert "overrides=[dataset.panoramas=raw]" in obstacle(RigRotation(1), cached)
    for make in (lambda: DisturbedDataset(cached, Jpeg(30)), lambda: DelayedDataset(cached)):
        with pytest.raises(ValueError, match="needs the photographs"):
            make()


def test_single_photographs_are_disturbed_but_have_no_rig(files):
    images, depth = files
    single = CooperativeDataset(PinholeViews(images, "train", 40, 30, depth), VehicleSampling(vehicles=2))
    truth, seen = single[0].batch, DisturbedDataset(single, Black("right"))[0].batch
    assert_same_truth(seen, truth)
    dark = [not view.any() for view in seen.inputs.image[0]]
    assert dark == [False, True, False, False] * 2
    assert "without a rig" in obstacle(RigRotation(1), single)


def test_example_of_the_robustness_page(files):
    found = run_examples("robustness.md", IMAGES_ROOT=files[0], DEPTH_ROOT=files[1])
    assert found["truth"].inputs.shape == (1, 2, 28, 112)
