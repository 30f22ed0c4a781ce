"""Checks of depth edges and of what the masks of a panorama mean."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.doctor.report import Measured
from coop3d.geometry.transforms import invert_rigid
from coop3d.stitching.table import NO_CAMERA
from coop3d.types import CameraView, Panorama, RigFrame

ENOUGH_EDGES = 100
_STEP = 1.3  # both sides of an edge differ at least by this factor


def mask_checks(frame: RigFrame, panorama: Panorama) -> Iterator[Measured]:
    """What masks and range say, against the depth images they come from."""
    p = panorama
    wrong = (
        (p.valid & ~(p.covered & np.isfinite(p.range_m)))
        | (p.non_ambiguous & ~p.covered)
        | (p.covered != (p.source != NO_CAMERA))
    )
    yield Measured("pixels whose masks contradict each other", float(wrong.mean()))
    covered = max(int(p.covered.sum()), 1)
    if not frame.depth_is_dense:  # where the sky is is not known
        pretended = p.non_ambiguous & ~p.valid
        yield Measured("unmeasured pixels called a surface", float(pretended.sum() / covered))
        if p.valid.any() or frame.sweeps or frame.views[0].z_m is not None:
            yield Measured("covered pixels with range", float(p.valid.sum() / covered))
        return
    surface = p.covered & (p.non_ambiguous | ~p.mask_known)
    yield Measured("covered surface with range", float(p.valid.sum() / max(int(surface.sum()), 1)))
    yield Measured(
        "depth edges averaged, files", averaged_edges([v.z_m for v in frame.views if v.z_m is not None])
    )
    yield Measured("depth edges averaged, panorama", averaged_edges([p.range_m]))
    if p.kind == "rig":
        sky, solid = _sky_and_solid(frame, p)
        known = p.mask_known
        if (sky & known).any():
            yield Measured("sky called a surface", float(p.non_ambiguous[sky & known].mean()))
        if (solid & known).any():
            yield Measured("surface called ambiguous", float((~p.non_ambiguous)[solid & known].mean()))


def _sky_and_solid(frame: RigFrame, panorama: Panorama) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two [H, W] masks: pixels whose 5x5 neighbourhood in the depth image is all sky, or all surface."""
    T_pano_rig = invert_rigid(panorama.T_world_pano) @ frame.T_world_rig
    rays = panorama.camera.rays()
    sky, solid = np.zeros(panorama.source.shape, bool), np.zeros(panorama.source.shape, bool)
    for k, view in enumerate(frame.views):
        uv, inside = view.camera.project(rays @ (T_pano_rig @ view.T_rig_cam)[:3, :3])
        mine = inside & (panorama.source == k)
        column, row = uv[mine].astype(int).T
        measured = _measured(view)
        window = np.ones((5, 5), np.uint8)
        sky[mine] = cv2.dilate(measured, window)[row, column] == 0
        solid[mine] = cv2.erode(measured, window)[row, column] == 1
    return sky, solid


def _measured(view: CameraView) -> NDArray[np.uint8]:
    assert view.z_m is not None
    return np.isfinite(view.z_m).astype(np.uint8)


def averaged_edges(images: list[NDArray[np.float32]]) -> float:
    """Share of depth edges whose middle is neither of the two surfaces: averaged across, or with zeros of the sky.

    Looks at seven pixels in a line, along rows and columns. Where the outer two of each side lie on one surface and
    the surfaces are far apart (or one side is sky), the three in the middle must belong to one of them.

    Args:
        images: [h, w] depth or range, NaN = none.

    Returns:
        NaN when there are fewer than `ENOUGH_EDGES` edges.
    """
    edges = averaged = 0
    for image in images:
        for lines in (image, image.T):
            for towards in (lines, lines[:, ::-1]):  # near side first, then far side first
                found, bad = _edges_along_rows(np.ascontiguousarray(towards))
                edges, averaged = edges + found, averaged + bad
    return averaged / edges if edges >= ENOUGH_EDGES else float("nan")


def _edges_along_rows(z: NDArray[np.float32]) -> tuple[int, int]:
    """(edges from near to far or to the sky, those with something in between)."""
    a0, a1, *middle, b1, b0 = (z[:, i : z.shape[1] - 6 + i] for i in range(7))
    with np.errstate(invalid="ignore", divide="ignore"):
        jump = 1.0 / a1 - 1.0 / b1  # planes are straight lines in 1/z, however steep
        flat_near = np.abs(1.0 / a1 - 1.0 / a0) < 0.1 * np.abs(jump)
        flat_far = np.abs(1.0 / b1 - 1.0 / b0) < 0.1 * np.abs(jump)
        to_far = (b1 > _STEP * a1) & flat_near & flat_far
        margin = 0.1 * (b1 - a1)
        between = np.any([(m > a1 + margin) & (m < b1 - margin) for m in middle], axis=0)
        to_sky = np.isnan(b1) & np.isnan(b0) & (np.abs(a1 - a0) < 0.05 * a1)
        sunk = np.any([m < a1 / _STEP for m in middle], axis=0)  # towards the zeros that stand for sky
    return int(to_far.sum() + to_sky.sum()), int((to_far & between).sum() + (to_sky & sunk).sum())
