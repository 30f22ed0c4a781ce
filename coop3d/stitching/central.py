"""Panoramas with one centre of projection: colour and range moved to a viewpoint where no camera stands.

With dense depth the move is exact for what the cameras see; what only the centre would see is a hole. Every photograph
pixel is thrown forward into the virtual view, which tells roughly which surfaces a virtual pixel may show. Each
candidate is then found exactly: the pixel's own ray is intersected with the depth image by the secant method (on
planes ``z / z_image`` is linear along a ray, so one step is exact). The nearest intersection wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from coop3d.geometry.cameras import PinholeCamera
from coop3d.geometry.transforms import transform_points
from coop3d.stitching.depth import EDGE, SKY, padded_inverse, sample_dense, sample_inverse
from coop3d.stitching.table import NO_CAMERA, RigTable, padded_lookup
from coop3d.types import CameraView

STEPS = 5  # of the secant method
CONVERGED = 1e-4  # relative error of depth
LARGEST_CHANGE = 0.3  # share of its first guess that an intersection may lie from it
SAME_SURFACE = 0.005  # relative range within which two cameras see the same; the better view gives the colour


class CentralImage(NamedTuple):
    """Fields of a central panorama, see `coop3d.types.Panorama`."""

    rgb: NDArray[np.uint8]
    range_m: NDArray[np.float32]
    source: NDArray[np.uint8]
    non_ambiguous: NDArray[np.bool_]
    mask_known: NDArray[np.bool_]


class _Hits(NamedTuple):
    """What one camera shows along N rays of the virtual view."""

    range_m: NDArray[np.float64]  # [N] from the virtual centre, inf = nothing
    uv: NDArray[np.float64]  # [N, 2] in the photograph


def warp_dense(views: Sequence[CameraView], table: RigTable) -> CentralImage:
    """Colour, range and masks as seen from the virtual camera's centre.

    Args:
        views: K photographs with dense z-depth.
        table: of this rig: says what lies at infinity (the sky).
    """
    H, W = table.source.shape
    best = np.full(H * W, np.inf)
    quality = np.full(H * W, -np.inf)
    source = np.full(H * W, NO_CAMERA, np.uint8)
    uv = np.full((H * W, 2), np.nan, np.float32)
    rays = table.virtual.rays().reshape(-1, 3)
    for k, view in enumerate(views):
        hits = _intersect(view, table.T_virtual_cam[k], table, rays)
        towards = hits.range_m[:, None] * rays - table.T_virtual_cam[k][:3, 3]
        with np.errstate(invalid="ignore"):
            cosine = towards @ table.T_virtual_cam[k][:3, 2] / np.linalg.norm(towards, axis=1)
            nearer = hits.range_m < best * (1 - SAME_SURFACE)
            better = (hits.range_m < best * (1 + SAME_SURFACE)) & (cosine > quality)
        wins = np.isfinite(hits.range_m) & (nearer | better)
        best[wins], quality[wins], source[wins], uv[wins] = hits.range_m[wins], cosine[wins], k, hits.uv[wins]
    found = np.isfinite(best).reshape(H, W)
    source, uv = source.reshape(H, W), uv.reshape(H, W, 2)
    sky, unsure = _sky(views, table, found)
    source[sky], uv[sky] = table.source[sky], table.uv[sky]
    range_m = np.where(found, best.reshape(H, W), np.nan).astype(np.float32)
    return CentralImage(_colour(views, table, source, uv), range_m, source, found, ~unsure)


def _sky(
    views: Sequence[CameraView], table: RigTable, found: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels without a surface that show the sky, and those that may show it: parallax is nothing at infinity."""
    seen = sample_dense([v.z_m for v in views if v.z_m is not None], table)[1]
    return table.covered & (seen == SKY) & ~found, table.covered & (seen == EDGE) & ~found


def _intersect(
    view: CameraView, T_virtual_cam: NDArray[np.float64], table: RigTable, rays: NDArray[np.float64]
) -> _Hits:
    """Nearest surface of one depth image along every ray of the virtual view."""
    assert view.z_m is not None
    H, W = table.source.shape
    nearest = _thrown_forward(view.camera, view.z_m, T_virtual_cam, table)
    around = np.pad(nearest, ((1, 1), (0, 0)), constant_values=np.inf)
    around = np.concatenate([around[:, -1:], around, around[:, :1]], axis=1)  # the circle closes
    kernel = np.ones((3, 3), np.uint8)
    low = cv2.erode(around, kernel)[1:-1, 1:-1]
    high = -cv2.erode(np.where(np.isfinite(around), -around, np.inf), kernel)[1:-1, 1:-1]
    best = _Hits(np.full(H * W, np.inf), np.full((H * W, 2), np.nan))
    inverse = padded_inverse(view.z_m)
    for guess in (low, nearest, high):
        guess = guess.reshape(-1)
        todo = np.flatnonzero(np.isfinite(guess) & (best.range_m > guess * (1 + SAME_SURFACE)))
        t, uv = _refine(view.camera, inverse, T_virtual_cam, rays[todo], guess[todo].astype(np.float64))
        better = t < best.range_m[todo]
        best.range_m[todo[better]], best.uv[todo[better]] = t[better], uv[better]
    return best


def _thrown_forward(
    camera: PinholeCamera, z_m: NDArray[np.float32], T_virtual_cam: NDArray[np.float64], table: RigTable
) -> NDArray[np.float32]:
    """[H, W] range from the virtual centre of the nearest photograph pixel that falls into each pixel, inf = none."""
    rays = camera.rays()
    points = transform_points(T_virtual_cam, rays / rays[..., 2:] * z_m[..., None])[np.isfinite(z_m)]
    uv, inside = table.virtual.project(points)
    column, row = uv[inside].astype(np.int64).T
    nearest = np.full(table.source.shape, np.inf, np.float32)
    range_m = np.linalg.norm(points[inside], axis=1).astype(np.float32)
    np.minimum.at(nearest, (row, column), range_m)
    return nearest


def _refine(
    camera: PinholeCamera,
    inverse: NDArray[np.float32],
    T_virtual_cam: NDArray[np.float64],
    rays: NDArray[np.float64],
    guess: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Range [N] along N rays from the virtual centre to the depth image's surface near ``guess``, and its uv [N, 2].

    inf where there is none.
    """
    R, centre = T_virtual_cam[:3, :3], T_virtual_cam[:3, 3]
    rays_cam, origin = rays @ R, -centre @ R

    def relative_error(t: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        points = origin + t[:, None] * rays_cam
        uv, inside = camera.project(points)
        lookup = padded_lookup(np.where(inside[:, None], uv, 0.5), camera.width)
        w = sample_inverse(inverse.ravel(), inverse.shape[1], *lookup)
        return np.where(inside, points[:, 2] * w - 1.0, np.nan), uv

    last = guess * 1.002
    last_error = relative_error(last)[0]
    t = guess
    for _ in range(STEPS):
        error, uv = relative_error(t)
        with np.errstate(invalid="ignore", divide="ignore"):
            step = error * (t - last) / (error - last_error)
        step = np.where(np.isfinite(step), np.clip(step, -0.1 * guess, 0.1 * guess), 0.0)
        last, last_error, t = t, error, t - step
    error, uv = relative_error(t)
    with np.errstate(invalid="ignore"):
        good = (np.abs(error) < CONVERGED) & (np.abs(t - guess) < LARGEST_CHANGE * guess)
    return np.where(good, t, np.inf), uv


def _colour(
    views: Sequence[CameraView], table: RigTable, source: NDArray[np.uint8], uv: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Bilinear in photographs that are first reduced to about the virtual view's density, which is what antialiases."""
    rgb = np.zeros((*source.shape, 3), np.uint8)
    for k, view in enumerate(views):
        image = view.image
        if table.supersample > 1:
            image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        scale_x, scale_y = image.shape[1] / view.image.shape[1], image.shape[0] / view.image.shape[0]
        x, y = uv[..., 0] * scale_x - 0.5, uv[..., 1] * scale_y - 0.5
        seen = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mine = source == k
        rgb[mine] = seen[mine]
    return rgb
