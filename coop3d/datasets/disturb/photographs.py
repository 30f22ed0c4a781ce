"""Disturbances of each photograph by itself: blur, compression, noise, rain. Lengths are of a photograph 800 wide."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.disturb.base import Disturbance
from coop3d.datasets.light import to_levels, to_light
from coop3d.types import RigFrame

NOMINAL_WIDTH = 800  # OPV2V's photographs; pixels of a disturbance are rescaled to others, so angles stay
_GRID = 32  # sub-pixels per pixel and axis of a disc's rim


class PhotographDisturbance(Disturbance):
    """Works on one photograph after the other, each with its own random numbers."""

    @abstractmethod
    def photograph(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """[h, w, 3] to the same shape."""

    def __call__(self, frame: RigFrame, rng: np.random.Generator) -> RigFrame:
        views = tuple(replace(view, image=self.photograph(view.image, rng)) for view in frame.views)
        return replace(frame, views=views)


@dataclass(frozen=True)
class Defocus(PhotographDisturbance):
    """Light spread evenly over a disc of this radius."""

    radius_px: float
    family: ClassVar[str] = "defocus"

    def photograph(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        return _filtered(image, disc(self.radius_px * image.shape[1] / NOMINAL_WIDTH))


@dataclass(frozen=True)
class Motion(PhotographDisturbance):
    """Light spread evenly over a horizontal line of this length: the vehicle turns while the shutter is open."""

    length_px: float
    family: ClassVar[str] = "motion"

    def photograph(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        return _filtered(image, line(self.length_px * image.shape[1] / NOMINAL_WIDTH))


def disc(radius: float) -> NDArray[np.float32]:
    """[n, n] shares of each pixel of a disc about the middle one's centre; they add up to 1."""
    if radius <= 0.5:  # within one pixel
        return np.ones((1, 1), np.float32)
    reach = math.ceil(radius + 0.5) - 1
    sub = (np.arange((2 * reach + 1) * _GRID) + 0.5) / _GRID - reach - 0.5
    inside = sub[:, None] ** 2 + sub**2 <= radius**2
    share = inside.reshape(2 * reach + 1, _GRID, 2 * reach + 1, _GRID).sum(axis=(1, 3))
    return (share / share.sum()).astype(np.float32)


def line(length: float) -> NDArray[np.float32]:
    """[1, n] shares of each pixel of a line about the middle one's centre; a pixel's width of it changes nothing."""
    half = max(length, 1.0) / 2
    reach = math.ceil(half + 0.5) - 1
    cells = np.arange(-reach, reach + 1)
    share = np.clip(np.minimum(cells + 0.5, half) - np.maximum(cells - 0.5, -half), 0, 1)
    return (share / share.sum()).astype(np.float32)[None]


def _filtered(image: NDArray[np.uint8], kernel: NDArray[np.float32]) -> NDArray[np.uint8]:
    if kernel.size == 1:
        return image
    return to_levels(cv2.filter2D(to_light(image), -1, kernel, borderType=cv2.BORDER_REPLICATE))


@dataclass(frozen=True)
class Jpeg(PhotographDisturbance):
    """Compressed at this quality (1 to 100, smaller is worse), colours at half resolution."""

    quality: int
    family: ClassVar[str] = "jpeg"

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"JPEG quality is {self.quality}, expected 1 to 100")

    def photograph(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        options = [
            cv2.IMWRITE_JPEG_QUALITY, self.quality,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        ]  # fmt: skip
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        return cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(np.uint8)


@dataclass(frozen=True)
class Noise(PhotographDisturbance):
    """Noise of a sensor: its standard deviation is ``levels`` at level 128, half of it at black.

    The variance grows linearly with the level, as photons do: levels^2 (1/4 + 3/4 level / 128).
    """

    levels: float
    family: ClassVar[str] = "noise"

    def photograph(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        deviation = (self.levels * np.sqrt(0.25 + 0.75 * np.arange(256) / 128)).astype(np.float32)
        noisy = image + deviation[image] * rng.standard_normal(image.shape, np.float32)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


VEIL, STREAKS_PER_PIXEL = 0.5, 2.5e-3  # of 100 per cent: share of grey light; streaks at the nominal width


@dataclass(frozen=True)
class Rain(PhotographDisturbance):
    """A grey veil and bright slanted streaks; 100 per cent is a downpour.

    The veil is even: how it thickens with distance cannot be known from a photograph. No drops on the lens,
    no wet road.
    """

    percent: float
    family: ClassVar[str] = "rain"

    def photograph(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        light, amount = to_light(image), self.percent / 100
        grey = light.mean()
        veiled = (1 - VEIL * amount) * light + VEIL * amount * grey
        opacity = streaks(image.shape[:2], amount, rng)[..., None]
        return to_levels((1 - opacity) * veiled + opacity * max(0.8, grey))


def streaks(shape: tuple[int, int], amount: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """[h, w] opacity of the drops, under 0.5; all of a photograph fall at one slant."""
    h, w = shape
    scale = w / NOMINAL_WIDTH
    count = round(amount * STREAKS_PER_PIXEL * h * w / scale**2)
    slant = np.radians(rng.normal(0, 8))
    start = rng.uniform([-0.1 * w, -0.1 * h], [1.1 * w, h], (count, 2))
    length = rng.uniform(15, 50, count) * scale
    end = start + length[:, None] * np.array([np.sin(slant), np.cos(slant)])
    opacity = rng.uniform(40, 120, count)
    drawn = np.zeros(shape, np.uint8)
    for a, b, value in zip(
        np.rint(start * 16).astype(int), np.rint(end * 16).astype(int), opacity, strict=True
    ):
        cv2.line(drawn, a.tolist(), b.tolist(), float(value), 1, cv2.LINE_AA, shift=4)
    return (drawn / 255).astype(np.float32)
