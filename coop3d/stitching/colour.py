"""Colour of virtual pixels: one fixed remap per rig, antialiased, with seams evened out on request."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from coop3d.stitching.scratch import scratch
from coop3d.stitching.table import BAND_ROWS, NO_CAMERA, RigTable

DARKEST, BRIGHTEST = 8, 247  # grey levels beyond which a pixel says nothing about exposure
LARGEST_GAIN = 2.0


def sample_colour(images: Sequence[NDArray[np.uint8]], table: RigTable) -> NDArray[np.uint8]:
    """Colour that each pixel's camera sees in the pixel's direction, averaged over the table's sub-samples.

    Args:
        images: K arrays [h, w, 3].
        table: fixed look-up of the rig.

    Returns:
        [H, W, 3] uint8, 0 where no camera sees.
    """
    width = max(image.shape[1] for image in images)
    if any(image.shape[1] != width for image in images):
        images = [np.pad(image, ((0, 0), (0, width - image.shape[1]), (0, 0))) for image in images]
    atlas = scratch("photographs", (sum(len(image) for image in images) + 2, width, 3), np.uint8)
    np.concatenate(images, out=atlas[:-2])
    atlas[-2:] = 0
    H, W = table.source.shape
    xy, fraction = table.atlas_maps
    rgb = np.zeros((H, W, 3), np.uint8)
    samples = scratch("samples of a band", (len(xy), BAND_ROWS, W, 3), np.uint8)
    for rows, spans in table.bands:
        for columns in spans:
            height, width = rows.stop - rows.start, columns.stop - columns.start
            for n in range(len(xy)):
                part = n, rows, columns
                cv2.remap(atlas, xy[part], fraction[part], cv2.INTER_LINEAR, dst=samples[n, :height, :width])
            _average(
                samples.reshape(len(xy), BAND_ROWS, -1),
                3 * width,
                rgb[rows].reshape(height, -1),
                3 * columns.start,
            )
    return rgb


@njit(cache=True)
def _average(samples, width, out, first):
    """[n, >= h, >= width] -> ``width`` columns of out [h, W] from ``first`` on, rounded.

    Written so that it is vectorised: whole rows, 16 bits, and division as an exact product (for n <= 128).
    """
    n = np.uint16(samples.shape[0])
    inverse = np.uint32(((1 << 22) + n - 1) // n)
    total = np.empty(width, np.uint16)
    for i in range(out.shape[0]):
        total[:] = n // 2
        for k in range(samples.shape[0]):
            row = samples[k, i, :width]
            for j in range(width):
                total[j] = np.uint16(total[j] + np.uint16(row[j]))
        target = out[i, first : first + width]
        for j in range(width):
            target[j] = np.uint8((np.uint32(total[j]) * inverse) >> np.uint32(22))


def match_exposure(rgb: NDArray[np.uint8], source: NDArray[np.uint8], cameras: int) -> NDArray[np.uint8]:
    """Even out brightness across seams by one gain per camera; the mean of their logarithms is zero.

    The gains are the least-squares solution for the median brightness ratios between pixels that touch across
    a seam. Cameras that share no seam with others keep their exposure.

    Args:
        rgb: [H, W, 3].
        source: [H, W] camera of each pixel.
        cameras: K.
    """
    log_gain = _log_gains(_seam_ratios(rgb, source, cameras), cameras)
    levels = np.arange(256.0)[None] * np.exp(log_gain)[:, None]
    curves = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return look_up_by_camera(rgb, source, np.repeat(curves[..., None], 3, axis=2))


def _seam_ratios(
    rgb: NDArray[np.uint8], source: NDArray[np.uint8], cameras: int
) -> dict[tuple[int, int], tuple[float, int]]:
    """(a, b) -> (median of log(brightness in b / brightness in a), number of pixels) across each seam a < b."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    near = [  # each pixel beside its right neighbour (the panorama is a circle) and beside the one below
        (source, np.roll(source, -1, axis=1), grey, np.roll(grey, -1, axis=1)),
        (source[:-1], source[1:], grey[:-1], grey[1:]),
    ]
    found = []
    for s0, s1, g0, g1 in near:
        seam = (s0 != s1) & (s0 != NO_CAMERA) & (s1 != NO_CAMERA)
        seam &= (np.minimum(g0, g1) >= DARKEST) & (np.maximum(g0, g1) <= BRIGHTEST)
        a, b = s0[seam].astype(int), s1[seam].astype(int)
        ratio = np.log(g1[seam] / g0[seam].astype(float)) * np.where(a < b, 1, -1)
        found.append((np.minimum(a, b) * cameras + np.maximum(a, b), ratio))
    pair = np.concatenate([f[0] for f in found])
    ratio = np.concatenate([f[1] for f in found])
    return {
        (int(p) // cameras, int(p) % cameras): (float(np.median(ratio[pair == p])), int((pair == p).sum()))
        for p in np.unique(pair)
    }


def _log_gains(ratios: dict[tuple[int, int], tuple[float, int]], cameras: int) -> NDArray[np.float64]:
    """Least squares for log gain_a - log gain_b = ratio_ab, weighted by pixels; a weak pull toward no change."""
    A, rhs = [np.eye(cameras) * 1e-3], [np.zeros(cameras)]
    for (a, b), (ratio, count) in ratios.items():
        row = np.zeros((1, cameras))
        row[0, a], row[0, b] = np.sqrt(count), -np.sqrt(count)
        A.append(row)
        rhs.append(np.array([ratio * np.sqrt(count)]))
    solution = np.linalg.lstsq(np.concatenate(A), np.concatenate(rhs), rcond=None)[0]
    return np.clip(solution, -np.log(LARGEST_GAIN), np.log(LARGEST_GAIN))


def look_up_by_camera(
    rgb: NDArray[np.uint8], source: NDArray[np.uint8], curves: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """[H, W, 3] levels through the curves [K, 256, 3] of the camera [H, W] each pixel is of; 0 where there is none."""
    table = np.zeros((256, 256, 3), np.uint8)
    table[: len(curves)] = curves
    return _look_up(rgb, source, table)


@njit(cache=True)
def _look_up(rgb, source, table):
    out = np.empty_like(rgb)
    for i in range(rgb.shape[0]):
        for j in range(rgb.shape[1]):
            for c in range(3):
                out[i, j, c] = table[source[i, j], rgb[i, j, c], c]
    return out
