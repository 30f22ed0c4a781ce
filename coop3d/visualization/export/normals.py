"""Surface normals of a view's points from neighbouring pixels of one surface."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

# Two pixels lie on one surface if, between them, it would have to turn by less than this angle's tangent.
_LARGEST_TURN = 1.0


def view_normals(points: FloatArray, rays: FloatArray, origins: FloatArray, known: BoolArray) -> FloatArray:
    """Unit normals that face the camera; NaN where no neighbour shares the pixel's surface.

    Along a plane inverse range is linear in the ray, so from pixel to pixel it changes by nearly equal steps. A step
    that differs from those on both sides is an edge between two surfaces, and no tangent crosses it; neither does
    one cross a seam between two cameras, whose rays start elsewhere.

    Args:
        points: [H, W, 3] metres, view frame.
        rays: [H, W, 3] unit directions, view frame.
        origins: [H, W, 3] where each ray starts.
        known: [H, W] pixels whose point is meant.

    Returns:
        [H, W, 3] float32, view frame.
    """
    known = known & np.isfinite(points).all(axis=-1)
    range_m = np.linalg.norm(points - origins, axis=-1)
    known &= range_m > 0
    inverse = np.divide(1.0, range_m, out=np.full(range_m.shape, np.nan), where=known)
    tangents, found = [], known
    for axis, closed in ((1, _is_closed(rays)), (0, False)):
        ahead = _one_surface(inverse, rays, origins, axis, closed)  # with the next pixel along the axis
        behind = np.roll(ahead, 1, axis)
        step = np.roll(points, -1, axis) - points
        tangent = np.where(ahead[..., None], step, 0) + np.where(behind[..., None], np.roll(step, 1, axis), 0)
        tangents.append(tangent)
        found = found & (ahead | behind)
    normal = np.cross(tangents[0], tangents[1])
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    found = found & (length[..., 0] > 1e-12)
    normal = np.divide(normal, length, out=np.full(normal.shape, np.nan), where=found[..., None])
    away = (normal * rays).sum(axis=-1, keepdims=True) > 0
    return np.where(away, -normal, normal).astype(np.float32)


def _is_closed(rays: FloatArray) -> bool:
    """Whether the last column's neighbour is the first: a full circle."""
    middle = rays[rays.shape[0] // 2]
    if len(middle) < 4:
        return False
    step, gap = np.linalg.norm(middle[1] - middle[0]), np.linalg.norm(middle[-1] - middle[0])
    return bool(gap < 1.5 * step)


def _one_surface(
    inverse: FloatArray, rays: FloatArray, origins: FloatArray, axis: int, closed: bool
) -> BoolArray:
    """[H, W] whether a pixel and the next along ``axis`` lie on one surface; False where either is unknown."""
    change = np.roll(inverse, -1, axis) - inverse
    same_camera = (np.abs(np.roll(origins, -1, axis) - origins) < 1e-4).all(axis=-1)
    change[~same_camera] = np.nan
    if not closed:
        change[(slice(None),) * axis + (-1,)] = np.nan
    angle = np.linalg.norm(np.roll(rays, -1, axis) - rays, axis=-1)
    allowed = _LARGEST_TURN * angle * np.fmin(inverse, np.roll(inverse, -1, axis))
    sides = [np.abs(change - np.roll(change, shift, axis)) for shift in (1, -1)]
    turn = np.fmin(*sides)
    turn = np.where(np.isnan(turn), np.abs(change), turn)  # no neighbour on either side to compare with
    return turn <= allowed  # NaN compares as False
