"""Clouds and pictures as files for other programs, each in a stated frame and in metres."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coop3d.types import ViewInputs, ViewTargets
from coop3d.visualization.arrays import seen_pixels
from coop3d.visualization.export.cloud import ExportCloud, export_cloud
from coop3d.visualization.export.colmap import write_colmap
from coop3d.visualization.export.formats import GLTF_FROM_OPENCV, write_glb, write_npz, write_pcd, write_ply
from coop3d.visualization.export.normals import view_normals
from coop3d.visualization.export.pinholes import PinholeCut, camera_of_rays, cut_pinholes
from coop3d.visualization.export.rerun_log import write_rrd
from coop3d.visualization.export.viser_server import serve_viser

EXPORT_FORMATS = ("ply", "pcd", "glb", "colmap", "npz", "rrd")

__all__ = [
    "EXPORT_FORMATS",
    "GLTF_FROM_OPENCV",
    "ExportCloud",
    "PinholeCut",
    "camera_of_rays",
    "cut_pinholes",
    "export_cloud",
    "serve_viser",
    "view_normals",
    "write_colmap",
    "write_exports",
    "write_glb",
    "write_npz",
    "write_pcd",
    "write_ply",
    "write_rrd",
]


def write_exports(
    folder: Path,
    stem: str,
    formats: Sequence[str],
    cloud: ExportCloud,
    inputs: ViewInputs,
    targets: ViewTargets | None = None,
    T_lidar_ref: NDArray[np.float64] | None = None,
    T_world_ref: NDArray[np.float64] | None = None,
) -> list[Path]:
    """Write a cloud in several formats: ``{stem}.ply`` and so on, ``{stem}_colmap/``.

    Args:
        folder: made if absent.
        stem: of the file names.
        formats: some of `EXPORT_FORMATS`.
        cloud: from `export_cloud`.
        inputs, targets: what the cloud was made from, for COLMAP's pictures.
        T_lidar_ref: reference panorama to the reference's LiDAR, for PCD; None: the same frame.
        T_world_ref: reference panorama to the world, where known; kept in NPZ.

    Returns:
        What was written, in the order of ``formats``.

    Raises:
        ValueError: for a format that is none of `EXPORT_FORMATS`, or whose library is not installed.
    """
    unknown = [f for f in formats if f not in EXPORT_FORMATS]
    if unknown:
        raise ValueError(f"cannot export {', '.join(unknown)}; formats are {', '.join(EXPORT_FORMATS)}")
    writers = {
        "ply": lambda path: write_ply(path, cloud),
        "pcd": lambda path: write_pcd(path, cloud, T_lidar_ref),
        "glb": lambda path: write_glb(path, cloud),
        "npz": lambda path: write_npz(path, cloud, T_world_ref),
        "rrd": lambda path: write_rrd(path, cloud),
    }
    written = []
    for name in formats:
        if name == "colmap":
            covered = [seen_pixels(inputs, targets, v) for v in range(inputs.shape[1])]
            written.append(write_colmap(folder / f"{stem}_colmap", cloud, inputs, covered))
        else:
            written.append(writers[name](folder / f"{stem}.{name}"))
    return written
