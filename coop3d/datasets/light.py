"""Levels of photographs and the light that they stand for (sRGB, IEC 61966-2-1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SRGB_KNEE, SRGB_SLOPE = 0.0031308, 12.92


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


def camera_gains(light: NDArray[np.float64], warmth: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K, 3] gains of red, green and blue of cameras with ``light`` [K] times the light and ``warmth`` [K] more red
    and less blue."""
    return light[:, None] * np.stack([warmth, np.ones_like(warmth), 1 / warmth], axis=1)


def curves_of_gains(gains: NDArray[np.float64]) -> NDArray[np.uint8]:
    """[K, 256, 3] level in, level out, for light of each camera and channel times ``gains`` [K, 3]."""
    light = np.clip(LIGHT_OF_LEVEL[None, :, None] * gains[:, None, :], 0, 1)
    return np.rint(255 * srgb_encode(light)).astype(np.uint8)
