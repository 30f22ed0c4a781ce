"""What a disturbance is, and where its randomness comes from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coop3d.types import RigFrame, SampleKey

SRGB_KNEE, SRGB_SLOPE = 0.0031308, 12.92  # IEC 61966-2-1


class Disturbance(ABC):
    """Changes what is seen of one vehicle, or what it believes of its rig; never where anything is.

    ``family`` names the kind. Two severities of one family draw the same random numbers for the same vehicle, so
    that a curve over severities shows the severity and not the draw.
    """

    family: ClassVar[str]
    per_vehicle: ClassVar[bool] = False  # drawn once per vehicle of a scenario, not anew in each frame
    needs_rig: ClassVar[bool] = False  # changes how photographs lie to each other: nothing for single ones

    @abstractmethod
    def __call__(self, frame: RigFrame, rng: np.random.Generator) -> RigFrame:
        """The frame as it is seen, or believed: same pose, same depth, other images or mounting poses."""


def generator(seed: int, family: str, key: SampleKey, *, per_vehicle: bool = False) -> np.random.Generator:
    """Random numbers of one vehicle at one instant (or of one vehicle), whoever asks and in whatever order."""
    name = key._replace(frame="") if per_vehicle else key
    digest = hashlib.sha256(f"{seed}|{family}|{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _srgb_decode(level: NDArray[np.float64]) -> NDArray[np.float64]:
    low = level <= SRGB_KNEE * SRGB_SLOPE
    return np.where(low, level / SRGB_SLOPE, ((level + 0.055) / 1.055) ** 2.4)


def srgb_encode(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light in [0, 1], proportional to photons, to the level in [0, 1] that a photograph stores."""
    low = light <= SRGB_KNEE
    return np.where(low, light * SRGB_SLOPE, 1.055 * np.maximum(light, SRGB_KNEE) ** (1 / 2.4) - 0.055)


LIGHT_OF_LEVEL = _srgb_decode(np.arange(256) / 255)  # [256] of each 8-bit level
_STEPS = 65535  # finer than an 8-bit level by 20 where the curve is steepest
_LEVEL_OF_LIGHT = np.rint(255 * srgb_encode(np.arange(_STEPS + 1) / _STEPS)).astype(np.uint8)


def to_light(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[..., 3] sRGB to light in [0, 1]: lenses and rain add light, not levels."""
    return LIGHT_OF_LEVEL.astype(np.float32)[image]


def to_levels(light: NDArray[np.floating]) -> NDArray[np.uint8]:
    """[..., 3] light, clipped to [0, 1], to sRGB."""
    return _LEVEL_OF_LIGHT[(np.clip(light, 0, 1) * _STEPS + 0.5).astype(np.uint16)]
