"""Colour: logarithmic scales in metres, the turbo map, vehicle colours and photographs as 256-colour palettes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

UNKNOWN_INDEX = 255  # palette position of "not known"
UNKNOWN_RGB = (128, 128, 128)

# Okabe and Ito's colour-blind-safe set without black and yellow, and one more: OPV2V has at most 7 vehicles.
VEHICLE_RGB: tuple[tuple[int, int, int], ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (148, 103, 189),
)


def vehicle_rgb(index: int) -> tuple[int, int, int]:
    """Colour of the ``index``-th vehicle; repeats after the seventh."""
    return VEHICLE_RGB[index % len(VEHICLE_RGB)]


@dataclass(frozen=True)
class LogScale:
    """A logarithmic axis from ``low`` to ``high`` (both > 0); values beyond are clamped, NaN stays NaN."""

    low: float
    high: float
    unit: str = "m"

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and math.isfinite(self.high)):
            raise ValueError(f"a log scale needs 0 < low < high, found {self.low} and {self.high}")

    def normalise(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """[...] values to [...] in [0, 1]; NaN where not finite."""
        finite = np.isfinite(values)
        clipped = np.clip(np.where(finite, values, self.low), self.low, self.high)
        position = np.log(clipped / self.low) / math.log(self.high / self.low)
        return np.where(finite, position, np.nan).astype(np.float32)

    def indices(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """[...] values to [...] palette positions 0..254; 255 where not finite."""
        position = self.normalise(values)
        known = np.isfinite(position)
        return np.where(known, np.round(np.where(known, position, 0) * 254), UNKNOWN_INDEX).astype(np.uint8)

    def ticks(self) -> list[float]:
        """1-2-5 numbers inside the scale, ends included when they are such numbers."""
        decades = range(math.floor(math.log10(self.low)) - 1, math.ceil(math.log10(self.high)) + 1)
        candidates = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        return [t for t in candidates if self.low * 0.999 <= t <= self.high * 1.001]


# One scale for every picture, so that two frames can be compared by eye.
RANGE_SCALE = LogScale(1.0, 120.0)
ERROR_SCALE = LogScale(0.05, 10.0)


def turbo_palette() -> NDArray[np.uint8]:
    """[256, 3] RGB: turbo in 0..254, grey for :data:`UNKNOWN_INDEX`."""
    ramp = np.round(np.linspace(0, 255, 255)).astype(np.uint8)[:, None]
    rgb = cv2.applyColorMap(ramp, cv2.COLORMAP_TURBO)[:, 0, ::-1]
    return np.concatenate([rgb, np.array([UNKNOWN_RGB], np.uint8)])


def colourise(values: NDArray[np.floating], scale: LogScale) -> NDArray[np.uint8]:
    """[H, W] values to [H, W, 3] RGB in turbo; black where the value is not finite."""
    palette = turbo_palette()
    palette[UNKNOWN_INDEX] = 0
    return palette[scale.indices(values)]


def quantise_colours(
    rgb: NDArray[np.uint8], colours: int = 256
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Median-cut palette of point colours, deterministic.

    Args:
        rgb: [N, 3] uint8.
        colours: at most 256.

    Returns:
        ([N] uint8 indices, [256, 3] uint8 palette, unused entries 0).
    """
    palette = np.zeros((256, 3), np.uint8)
    if len(rgb) == 0:
        return np.zeros(0, np.uint8), palette
    # Six bits a channel: the cut works on distinct colours, however many points share them.
    codes = (rgb >> 2).astype(np.int64) @ np.array([4096, 64, 1])
    distinct, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    values = np.stack([distinct // 4096, distinct // 64 % 64, distinct % 64], axis=-1) * 4.0 + 1.5
    index_of_distinct = np.zeros(len(distinct), np.uint8)
    for k, members in enumerate(_median_cut(values, counts, colours)):
        palette[k] = np.round(np.average(values[members], axis=0, weights=counts[members]))
        index_of_distinct[members] = k
    return index_of_distinct[inverse.ravel()], palette


def _median_cut(
    values: NDArray[np.floating], counts: NDArray[np.integer], boxes_wanted: int
) -> list[NDArray[np.int64]]:
    """Split the colours into boxes: always the box with the largest spread times population, at its median."""
    boxes = [np.arange(len(values))]
    spread = [_spread(values[boxes[0]], counts)]
    while len(boxes) < boxes_wanted and max(spread) > 0:
        k = int(np.argmax(spread))
        members = boxes[k]
        axis = int(np.argmax(np.ptp(values[members], axis=0)))
        members = members[np.argsort(values[members, axis], kind="stable")]
        below = np.cumsum(counts[members])
        cut = int(np.clip(np.searchsorted(below, below[-1] / 2) + 1, 1, len(members) - 1))
        boxes[k : k + 1] = [members[:cut], members[cut:]]
        spread[k : k + 1] = [_spread(values[part], counts[part]) for part in (members[:cut], members[cut:])]
    return boxes


def _spread(values: NDArray[np.floating], counts: NDArray[np.integer]) -> float:
    return float(np.ptp(values, axis=0).max() * math.sqrt(counts.sum())) if len(values) > 1 else 0.0
