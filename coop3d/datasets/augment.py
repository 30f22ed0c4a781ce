"""Augmentation that keeps geometry exact: yaw roll and mirroring of panoramas, photometric jitter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.light import camera_gains, curves_of_gains
from coop3d.geometry.cameras import PanoramaCamera
from coop3d.geometry.mounted import MountedCamera
from coop3d.geometry.transforms import yaw_rotation
from coop3d.stitching.colour import look_up_by_camera
from coop3d.types import Panorama

MOST_STOPS = 4.0
IMAGES = ("rgb", "range_m", "source", "covered", "valid", "non_ambiguous", "mask_known")
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])  # left and right of a panorama's frame (x right, y down, z forward)


def roll_yaw(panorama: Panorama, columns: int) -> Panorama:
    """Turn the panorama's frame about the vertical by rolling its image to the right by whole columns.

    Column shifts of a 360 degree image are rotations, so this is exact: pixels keep their values, ray
    origins turn with the frame, and the pose turns the other way, so that world points do not move.

    Args:
        panorama: with an equirectangular or cylindrical camera.
        columns: shift to the right; any integer.
    """
    if not isinstance(panorama.camera, PanoramaCamera):
        raise ValueError(f"yaw roll needs a 360 degree camera, found {type(panorama.camera).__name__}")
    T_new_old = yaw_rotation(2.0 * math.pi * columns / panorama.camera.width)
    return replace(
        panorama,
        origins=(panorama.origins @ T_new_old[:3, :3].T).astype(np.float32),
        T_world_pano=panorama.T_world_pano @ T_new_old.T,
        **_images(panorama, lambda image: np.roll(image, columns, axis=1)),
    )


def mirror(panorama: Panorama) -> Panorama:
    """What the vehicle would see if the whole world, its cameras included, had left and right exchanged.

    Columns lie symmetrically about the forward direction, so this is exact: images are read from right to left, ray
    origins change sides, and so does the world (across its plane x = 0, the same for all vehicles), so that poses stay
    rotations.

    Args:
        panorama: with an equirectangular or cylindrical camera.
    """
    if not isinstance(panorama.camera, PanoramaCamera):
        raise ValueError(f"mirroring needs a 360 degree camera, found {type(panorama.camera).__name__}")
    return replace(
        panorama,
        origins=(panorama.origins @ MIRROR[:3, :3]).astype(np.float32),
        T_world_pano=MIRROR @ panorama.T_world_pano @ MIRROR,
        **_images(panorama, lambda image: np.ascontiguousarray(image[:, ::-1])),
    )


def _images(panorama: Panorama, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """Everything of a panorama that has a value per pixel, changed."""
    return {name: change(getattr(panorama, name)) for name in IMAGES}


def turn_yaw(view: Panorama, angle_rad: float) -> Panorama:
    """Turn the frame of a vehicle's photograph about the vertical: `roll_yaw` where no pixel has to move for it.

    Args:
        view: a photograph in the frame of its vehicle (`MountedCamera`).
        angle_rad: positive turns what is ahead to the right, as `roll_yaw` does with positive columns.
    """
    if not isinstance(view.camera, MountedCamera):
        raise ValueError(f"only a mounted camera's frame can be turned, found {type(view.camera).__name__}")
    T_new_old = yaw_rotation(angle_rad)
    return replace(
        view,
        camera=MountedCamera(view.camera.camera, T_new_old[:3, :3] @ view.camera.R_mount_cam),
        origins=(view.origins @ T_new_old[:3, :3].T).astype(np.float32),
        T_world_pano=view.T_world_pano @ T_new_old.T,
    )


@dataclass(frozen=True)
class Augmentation:
    """Random changes of one vehicle's views; every draw comes from the generator passed in.

    Attributes:
        yaw_roll: roll every panorama by a random number of columns; turn the frame that a vehicle's photographs share.
        mirror: probability that the panoramas of a sample, all of them together, are mirrored.
        brightness, contrast, saturation: half-widths of the multiplicative ranges [1 - a, 1 + a].
        gamma: half-width of the exponent's logarithm.
        camera_exposure: cameras of a vehicle differ: light of each times 2^u, u within so many stops.
        camera_warmth: red light of each camera times 2^u and blue times 2^-u, u within so many stops.
        camera_loss: probability that one camera of a vehicle gives no picture.
    """

    yaw_roll: bool = True
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    gamma: float = 0.15
    camera_exposure: float = 0.0
    camera_warmth: float = 0.0
    camera_loss: float = 0.0
    mirror: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.mirror <= 1:
            raise ValueError(f"augmentation mirror is {self.mirror}, expected 0 <= value <= 1")
        for name in ("brightness", "contrast", "saturation", "gamma", "camera_loss"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"augmentation {name} is {getattr(self, name)}, expected 0 <= value < 1")
        for name in ("camera_exposure", "camera_warmth"):
            if not 0 <= getattr(self, name) <= MOST_STOPS:
                raise ValueError(
                    f"augmentation {name} is {getattr(self, name)}, expected 0 to {MOST_STOPS:g} stops"
                )

    def of_sample(
        self, vehicles: Sequence[tuple[Panorama, ...]], rng: np.random.Generator
    ) -> list[tuple[Panorama, ...]]:
        """The views of every vehicle of a sample, mirrored together or not, then changed one by one."""
        if self.mirror and rng.uniform() < self.mirror:
            vehicles = [tuple(mirror(view) for view in views) for views in vehicles]
        return [self(views, rng) for views in vehicles]

    def __call__(self, views: tuple[Panorama, ...], rng: np.random.Generator) -> tuple[Panorama, ...]:
        """Colours per vehicle, then per camera; yaw roll per panorama, or one turn for all photographs."""
        gain = 1 + self.brightness * rng.uniform(-1, 1)
        contrast = 1 + self.contrast * rng.uniform(-1, 1)
        saturation = 1 + self.saturation * rng.uniform(-1, 1)
        exponent = math.exp(self.gamma * rng.uniform(-1, 1))
        changed = []
        mounted = isinstance(views[0].camera, MountedCamera)
        angle = rng.uniform(-math.pi, math.pi) if self.yaw_roll and mounted else 0.0
        for view in views:
            if self.yaw_roll and mounted:
                view = turn_yaw(view, angle)
            elif self.yaw_roll:
                view = roll_yaw(view, int(rng.integers(view.camera.width)))
            changed.append(
                replace(view, rgb=_jitter(view.rgb, view.covered, gain, contrast, saturation, exponent))
            )
        if self.camera_exposure or self.camera_warmth or self.camera_loss:
            return self._by_camera(changed, rng)
        return tuple(changed)

    def _by_camera(self, views: list[Panorama], rng: np.random.Generator) -> tuple[Panorama, ...]:
        """What each camera of a vehicle does to colours by itself; photographs have one camera each."""
        cameras = [len(view.origins) for view in views]
        K = sum(cameras)
        light = 2.0 ** (self.camera_exposure * rng.uniform(-1, 1, K))
        warmth = 2.0 ** (self.camera_warmth * rng.uniform(-1, 1, K))
        gains = camera_gains(light, warmth)
        if rng.uniform() < self.camera_loss:
            gains[rng.integers(K)] = 0.0
        parts = np.split(curves_of_gains(gains), np.cumsum(cameras)[:-1])
        return tuple(
            replace(view, rgb=look_up_by_camera(view.rgb, view.source, curves))
            for view, curves in zip(views, parts, strict=True)
        )


def _jitter(
    rgb: NDArray[np.uint8],
    covered: NDArray[np.bool_],
    gain: float,
    contrast: float,
    saturation: float,
    exponent: float,
) -> NDArray[np.uint8]:
    """Gamma and gain through one look-up table, then saturation; uncovered pixels stay 0."""
    levels = (np.arange(256) / 255.0) ** exponent * gain
    levels = (levels - 0.5) * contrast + 0.5
    curved = cv2.LUT(rgb, np.clip(levels * 255.0 + 0.5, 0, 255).astype(np.uint8))
    grey = cv2.cvtColor(cv2.cvtColor(curved, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mixed = cv2.addWeighted(curved, saturation, grey, 1 - saturation, 0)
    mixed[~covered] = 0
    return mixed
