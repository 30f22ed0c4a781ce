"""Disturbances that change each level of each camera by itself: a dark camera, exposure, white balance."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.disturb.base import Disturbance
from coop3d.datasets.errors import DataError
from coop3d.datasets.light import camera_gains, curves_of_gains
from coop3d.geometry.cameras import PanoramaCamera
from coop3d.stitching.colour import look_up_by_camera
from coop3d.types import Panorama, RigFrame, SampleKey

SIDES = {
    "front": 0.0,
    "right": 90.0,
    "back": 180.0,
    "left": -90.0,
}  # azimuth in degrees, positive to the right
ANY = "any"
WIDEST_DEG = 60.0  # a camera farther from a side's azimuth does not look there

Curves = NDArray[np.uint8]  # [K, 256, 3]: level in, level out, per camera and channel


class ColourCurves(Disturbance):
    """A look-up table per camera. It also works on a finished panorama, whose pixels know their camera."""

    @abstractmethod
    def curves(self, azimuths_deg: NDArray[np.float64], rng: np.random.Generator, key: SampleKey) -> Curves:
        """[K, 256, 3] for cameras that look at these azimuths [K]."""

    def __call__(self, frame: RigFrame, rng: np.random.Generator) -> RigFrame:
        axes = np.stack([view.T_rig_cam[:3, 2] for view in frame.views])
        curves = self.curves(_azimuths_deg(axes), rng, frame.key)
        views = tuple(
            replace(view, image=_looked_up(view.image, curve))
            for view, curve in zip(frame.views, curves, strict=True)
        )
        return replace(frame, views=views)

    def on_panorama(self, panorama: Panorama, rng: np.random.Generator) -> Panorama:
        """The same by the ``source`` map: exact but for the average over the samples of a pixel.

        Raises:
            ValueError: it is not a 360 degree panorama.
        """
        if not isinstance(panorama.camera, PanoramaCamera):
            raise ValueError(f"{panorama.key}: expected a panorama, found {type(panorama.camera).__name__}")
        curves = self.curves(_azimuths_of_sources(panorama), rng, panorama.key)
        return replace(panorama, rgb=look_up_by_camera(panorama.rgb, panorama.source, curves))


def _looked_up(image: NDArray[np.uint8], curve: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([curve[image[..., c], c] for c in range(3)], axis=-1)


def _azimuths_deg(axes: NDArray[np.floating]) -> NDArray[np.float64]:
    """[..., 3] directions (x right, z forward) to degrees, 0 = forward, positive to the right."""
    return np.degrees(np.arctan2(axes[..., 0], axes[..., 2]))


def _azimuths_of_sources(panorama: Panorama) -> NDArray[np.float64]:
    """[K] where the middle of each camera's pixels lies; NaN for a camera without any."""
    rays = panorama.camera.rays()
    found = np.full(len(panorama.origins), np.nan)
    for k in range(len(found)):
        mine = panorama.source == k
        if mine.any():
            found[k] = _azimuths_deg(rays[mine].mean(axis=0))
    return found


def darkened_camera(
    side: str, azimuths_deg: NDArray[np.float64], rng: np.random.Generator, key: SampleKey
) -> int:
    """Index of the camera that looks to ``side``, or a random one for ``any``.

    Raises:
        DataError: no camera looks there.
    """
    if side == ANY:
        return int(rng.choice(np.flatnonzero(np.isfinite(azimuths_deg))))
    away = np.abs((azimuths_deg - SIDES[side] + 180) % 360 - 180)
    k = int(np.argmin(np.where(np.isnan(away), np.inf, away)))
    if not away[k] <= WIDEST_DEG:
        raise DataError(
            f"{key}: no camera looks to the {side}; azimuths are {np.round(azimuths_deg).tolist()} deg"
        )
    return k


@dataclass(frozen=True)
class Black(ColourCurves):
    """One camera gives no picture: all its pixels are 0. ``side``: front, right, left, back, or any (drawn)."""

    side: str = ANY
    family: ClassVar[str] = "black"

    def __post_init__(self) -> None:
        if self.side not in (*SIDES, ANY):
            raise ValueError(f"side is {self.side!r}, expected one of {(*SIDES, ANY)}")

    def curves(self, azimuths_deg: NDArray[np.float64], rng: np.random.Generator, key: SampleKey) -> Curves:
        curves = _unchanged(len(azimuths_deg))
        curves[darkened_camera(self.side, azimuths_deg, rng, key)] = 0
        return curves


@dataclass(frozen=True)
class Exposure(ColourCurves):
    """Light of the cameras times 2^u, with u spread evenly over -stops..stops, in random order."""

    stops: float
    family: ClassVar[str] = "exposure"

    def curves(self, azimuths_deg: NDArray[np.float64], rng: np.random.Generator, key: SampleKey) -> Curves:
        light = 2.0 ** (self.stops * _spread(len(azimuths_deg), rng))
        return curves_of_gains(camera_gains(light, np.ones_like(light)))


@dataclass(frozen=True)
class WhiteBalance(ColourCurves):
    """Red light times 2^u and blue times 2^-u, with u spread over -stops..stops: warm to cold cameras."""

    stops: float
    family: ClassVar[str] = "white_balance"

    def curves(self, azimuths_deg: NDArray[np.float64], rng: np.random.Generator, key: SampleKey) -> Curves:
        warm = 2.0 ** (self.stops * _spread(len(azimuths_deg), rng))
        return curves_of_gains(camera_gains(np.ones_like(warm), warm))


@dataclass(frozen=True)
class Gamma(ColourCurves):
    """Levels (in 0..1) to the power factor^u, with u spread over -1..1: other tone curves per camera."""

    factor: float
    family: ClassVar[str] = "gamma"

    def curves(self, azimuths_deg: NDArray[np.float64], rng: np.random.Generator, key: SampleKey) -> Curves:
        powers = self.factor ** _spread(len(azimuths_deg), rng)
        levels = (np.arange(256) / 255)[None] ** powers[:, None]
        return np.repeat(np.rint(255 * levels).astype(np.uint8)[..., None], 3, axis=2)


def _spread(cameras: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[K] from -1 to 1 in even steps, in random order: the extremes always occur."""
    return rng.permutation(np.linspace(-1, 1, cameras) if cameras > 1 else np.ones(1))


def _unchanged(cameras: int) -> Curves:
    return np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (cameras, 1, 3))
