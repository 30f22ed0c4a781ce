"""Which pixels of a view become points when not all of them can: far and thin things first.

A draw without replacement in which a pixel's chance is proportional to its importance: its range, so that the
ground at the bumper does not use up the budget of a pedestrian at 60 m, times `THIN_WEIGHT` where the pixel lies on
something narrow that stands in front of its surroundings, such as a pole, a sign or a wire.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

NEAREST_WEIGHT_M, FARTHEST_WEIGHT_M = 2.0, 80.0
THIN_WEIGHT = 12.0
_THIN_RAD = 0.05  # narrower than this (0.9 m at 18 m) is thin
_THIN_STEP = (
    0.15  # of its inverse range by which a thin thing must stand out: more than noise, less than a pole
)


def range_weight(range_m: NDArray[np.floating]) -> NDArray[np.floating]:
    """Importance by range alone: metres, clamped, so that the far background does not win everything either."""
    return np.clip(range_m, NEAREST_WEIGHT_M, FARTHEST_WEIGHT_M)


def thin_objects(range_m: NDArray[np.floating], pixel_angle_rad: float) -> NDArray[np.bool_]:
    """[H, W] pixels of things narrower than 0.05 rad, across or along, with farther surroundings on both sides.

    A morphological opening of inverse range with a bar wider than the thing removes it; what it changes is thin. Roads
    and walls pass unchanged: along any row or column their inverse range is monotonic or as wide as they are.

    Args:
        range_m: [H, W] metres, NaN or infinite = nothing there, hence farther than anything. Columns go round.
        pixel_angle_rad: between neighbouring pixels.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        nearness = np.where(np.isfinite(range_m) & (range_m > 0), 1.0 / range_m, 0.0).astype(np.float32)
    length = max(3, round(_THIN_RAD / pixel_angle_rad) | 1)
    margin = min(length, range_m.shape[1])
    padded = np.pad(nearness, ((0, 0), (margin, margin)), mode="wrap")
    padded = np.pad(padded, ((length, length), (0, 0)), mode="edge")
    opened = np.minimum(
        cv2.morphologyEx(padded, cv2.MORPH_OPEN, np.ones((1, length), np.uint8)),
        cv2.morphologyEx(padded, cv2.MORPH_OPEN, np.ones((length, 1), np.uint8)),
    )[length:-length, margin:-margin]
    return np.asarray(nearness - opened > _THIN_STEP * nearness)


def draw_pixels(
    importance: NDArray[np.floating], ticket: NDArray[np.floating], count: int
) -> NDArray[np.int64]:
    """Sorted positions of at most ``count`` of N candidates, drawn without replacement.

    Efraimidis and Spirakis (2006): the ``count`` largest ``ticket ** (1 / importance)`` are such a draw.

    Args:
        importance: [N] > 0.
        ticket: [N] uniform in [0, 1); the same tickets draw the same pixels from clouds of equal importance.
        count: wanted.
    """
    if len(importance) <= count:
        return np.arange(len(importance))
    keys = np.log(ticket + 1e-300) / importance
    return np.sort(np.argpartition(-keys, count)[:count])
