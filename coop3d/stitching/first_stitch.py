"""The mistakes of the team's first stitch, repeated on purpose: an ablation shows what they cost (docs/results.md)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coop3d.stitching.table import RigTable
from coop3d.types import CameraView, Panorama


def crop_to_aspect(view: CameraView, aspect: float) -> CameraView:
    """The middle rows of a photograph, ``aspect`` times as wide as high: most of the vertical field of view is lost."""
    height, width = view.image.shape[:2]
    rows = min(height, max(1, round(width / aspect)))
    top = (height - rows) // 2
    kept = slice(top, top + rows)
    return replace(
        view,
        camera=replace(view.camera, height=rows, cy=view.camera.cy - top),
        image=np.ascontiguousarray(view.image[kept]),
        z_m=None if view.z_m is None else np.ascontiguousarray(view.z_m[kept]),
    )


def without_geometry(panorama: Panorama, table: RigTable) -> Panorama:
    """Rays start at the centre, and depth along the camera's axis is called range along the ray."""
    return replace(
        panorama,
        kind="central",
        origins=np.zeros_like(panorama.origins),
        range_m=panorama.range_m / table.range_per_z,
    )
