"""Colours of vehicles and single cameras in training, against levels and light computed here."""

from __future__ import annotations

import numpy as np
import pytest

from coop3d.datasets import Augmentation
from coop3d.datasets.augment import _jitter
from coop3d.geometry import EquirectangularCamera, PinholeCamera
from coop3d.types import Panorama, SampleKey

STILL = {"yaw_roll": False, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "gamma": 0.0}
LEVEL = 120


def grey(cameras: int, *, panorama: bool) -> Panorama:
    """An even grey picture of as many cameras, side by side, with a border that none sees."""
    H, W = 8, 8 * cameras
    source = np.repeat(np.arange(cameras, dtype=np.uint8), 8)[None].repeat(H, axis=0)
    source[0] = 255
    covered = source != 255
    camera = EquirectangularCamera(W, H) if panorama else PinholeCamera(W, H, 10.0, 10.0, W / 2, H / 2)
    return Panorama(
        key=SampleKey("scenario", "1", "000001"),
        camera=camera,
        kind="rig",
        rgb=np.where(covered[..., None], np.uint8(LEVEL), np.uint8(0)).repeat(3, axis=-1),
        range_m=np.full((H, W), 5.0, np.float32),
        source=source,
        origins=np.zeros((cameras, 3), np.float32),
        covered=covered,
        valid=covered,
        non_ambiguous=covered,
        mask_known=covered,
        T_world_pano=np.eye(4),
    )


def views_of(kind: str) -> tuple[Panorama, ...]:
    """One panorama of four cameras, or their four photographs."""
    return (
        (grey(4, panorama=True),) if kind == "panorama" else tuple(grey(1, panorama=False) for _ in range(4))
    )


def light(level: float) -> float:
    """sRGB, written as published."""
    x = level / 255
    return x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4


def gains(views: tuple[Panorama, ...]) -> np.ndarray:
    """[4, 3] light of each camera over that of the even grey; all its pixels must agree."""
    found = []
    for view in views:
        assert (view.rgb[view.source == 255] == 0).all()
        for k in range(len(view.origins)):
            pixels = view.rgb[view.source == k]
            assert (pixels == pixels[0]).all()
            found.append([light(float(level)) / light(LEVEL) for level in pixels[0]])
    return np.array(found)


@pytest.mark.parametrize(
    ("change", "colour", "grey"),
    [  # of (200, 100, 50), whose grey is 124, and of 128
        ({"gain": 1.2}, (240, 120, 60), 154),
        ({"contrast": 0.5}, (164, 114, 89), 128),  # half of the way to 127.5
        ({"saturation": 0.5}, (162, 112, 87), 128),
        ({"exponent": 2.0}, (157, 39, 10), 64),
        ({"exponent": 2.0, "gain": 1.5, "contrast": 0.5}, (181, 93, 71), 112),
    ],
)
def test_jitter_by_hand(change, colour, grey):
    rgb = np.array([[[200, 100, 50], [128] * 3, [128] * 3]], np.uint8)
    covered = np.array([[True, True, False]])
    found = _jitter(
        rgb, covered, **{"gain": 1.0, "contrast": 1.0, "saturation": 1.0, "exponent": 1.0} | change
    )
    assert found.tolist() == [[list(colour), [grey] * 3, [0, 0, 0]]]


@pytest.mark.parametrize(
    ("name", "amount", "low", "high"),
    [("brightness", 0.3, 84, 156), ("contrast", 0.3, 118, 122), ("gamma", 0.15, 106, 133)],
)
def test_jitter_is_drawn_from_its_range(name, amount, low, high):
    augment = Augmentation(**STILL | {name: amount})
    views = views_of("panorama")
    levels = [int(augment(views, np.random.default_rng(seed))[0].rgb[1, 0, 0]) for seed in range(60)]
    assert (min(levels), max(levels)) == pytest.approx((low, high), abs=3)
    assert low <= min(levels)
    assert max(levels) <= high


@pytest.mark.parametrize("kind", ["panorama", "photographs"])
def test_cameras_differ_in_light_by_so_many_stops(kind):
    drawn = [
        gains(Augmentation(**STILL, camera_exposure=0.5)(views_of(kind), np.random.default_rng(seed)))
        for seed in range(40)
    ]
    stops = np.log2(np.array(drawn))  # [40, 4, 3]
    assert np.abs(stops).max() < 0.5 + 0.02  # a level is a fiftieth of a stop here
    assert stops.min() < -0.4
    assert stops.max() > 0.4
    np.testing.assert_allclose(stops, stops[..., :1].repeat(3, axis=2), atol=0.001)  # grey stays grey
    assert np.ptp(stops[..., 0], axis=1).min() > 0.01  # each camera its own


@pytest.mark.parametrize("kind", ["panorama", "photographs"])
def test_warm_cameras_gain_red_and_lose_blue(kind):
    stops = np.log2(gains(Augmentation(**STILL, camera_warmth=0.5)(views_of(kind), np.random.default_rng(3))))
    np.testing.assert_allclose(stops[:, 1], 0, atol=1e-9)
    np.testing.assert_allclose(stops[:, 0], -stops[:, 2], atol=0.03)
    assert np.ptp(stops[:, 0]) > 0.1


@pytest.mark.parametrize("kind", ["panorama", "photographs"])
def test_a_camera_is_lost_as_often_as_said(kind):
    augment = Augmentation(**STILL, camera_loss=0.3)
    drawn = [gains(augment(views_of(kind), np.random.default_rng(seed))) for seed in range(400)]
    dark = np.array([(g == 0).all(axis=1) for g in drawn])  # [400, 4]
    assert set(dark.sum(axis=1)) == {0, 1}
    assert dark.any(axis=1).mean() == pytest.approx(0.3, abs=0.07)  # three standard deviations
    assert dark.any(axis=0).all()
    for g, lost in zip(drawn, dark, strict=True):
        np.testing.assert_allclose(g[~lost], 1.0)


def test_geometry_stays_and_what_was_drawn_before_too():
    views = (grey(4, panorama=True),)
    plain = Augmentation()(views, np.random.default_rng(5))[0]
    changed = Augmentation(camera_exposure=0.5)(views, np.random.default_rng(5))[0]
    assert not np.array_equal(plain.rgb, changed.rgb)
    for name in ("range_m", "source", "valid", "T_world_pano"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(changed, name))
    level = plain.rgb[plain.source == 0][0]
    darker = np.log2(
        [
            light(float(b)) / light(float(a))
            for a, b in zip(level, changed.rgb[changed.source == 0][0], strict=True)
        ]
    )
    np.testing.assert_allclose(darker, darker[0], atol=0.05)  # on top of the vehicle's own jitter


@pytest.mark.parametrize(
    ("values", "message"),
    [({"camera_loss": 1.0}, "camera_loss is 1.0, expected 0 <= value < 1"),
     ({"camera_exposure": -0.1}, "camera_exposure is -0.1, expected 0 to 4 stops"),
     ({"camera_warmth": 5.0}, "camera_warmth is 5.0, expected 0 to 4 stops")],
)  # fmt: skip
def test_impossible_cameras_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**values)
