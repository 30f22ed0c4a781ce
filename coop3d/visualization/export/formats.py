"""Point cloud files: PLY, PCD, GLB and NPZ, each in the axes that its readers expect."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray

from coop3d.files import safe_name, write_bytes
from coop3d.geometry import transform_points
from coop3d.geometry.carla import opencv_points_to_carla
from coop3d.visualization.export.cloud import ExportCloud

# OpenCV's axes turned half a circle about z: y up, and forward is +z, where glTF wants an asset's front.
GLTF_FROM_OPENCV = np.diag([-1.0, -1.0, 1.0])


def write_ply(path: Path, cloud: ExportCloud) -> Path:
    """Binary PLY in the reference frame, OpenCV axes, metres.

    Vertex properties: ``x y z``, ``nx ny nz`` (0 0 0 = unknown), ``red green blue``, ``range_m``, ``vehicle`` (the
    header names them in order) and, for predicted points, ``confidence``.
    """
    columns = {
        **_columns(("x", "y", "z"), cloud.points),
        **_columns(("nx", "ny", "nz"), np.nan_to_num(cloud.normals)),
        **_columns(("red", "green", "blue"), cloud.rgb),
        "range_m": cloud.range_m,
        "vehicle": cloud.vehicle,
    }
    if cloud.confidence is not None:
        columns["confidence"] = cloud.confidence
    table = _table(columns)
    kinds = {"f": "float", "u": "uchar"}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment coop3d: metres, frame of the reference panorama, x right, y down, z forward",
        *(f"comment vehicle {k}: {_one_line(name)}" for k, name in enumerate(cloud.names)),
        f"element vertex {len(table)}",
        *(f"property {kinds[table.dtype[name].kind]} {name}" for name in columns),
        "end_header\n",
    ]
    return write_bytes(path, "\n".join(header).encode("ascii") + table.tobytes())


def write_pcd(path: Path, cloud: ExportCloud, T_target_ref: NDArray[np.float64] | None = None) -> Path:
    """Binary PCD in CARLA's own left-handed axes (x forward, y right, z up), metres, as OPV2V's clouds are.

    Fields: ``x y z rgb normal_x normal_y normal_z`` (NaN = unknown) and, for predicted points, ``confidence``.

    Args:
        path: of the file.
        cloud: to write.
        T_target_ref: [4, 4] from the reference panorama to where the cloud is wanted, in OpenCV axes: the
            reference's LiDAR (then it overlies that vehicle's ``.pcd``) or the world. None: the panorama's own
            frame, which is the LiDAR's unless it was centred elsewhere.
    """
    T = np.eye(4) if T_target_ref is None else T_target_ref
    points = opencv_points_to_carla(transform_points(T, cloud.points.astype(np.float64)))
    normals = opencv_points_to_carla(cloud.normals @ T[:3, :3].T)
    r, g, b = cloud.rgb.astype(np.uint32).T
    columns = {
        **_columns(("x", "y", "z"), points.astype(np.float32)),
        "rgb": (r << 16 | g << 8 | b).view(np.float32),  # PCL's packing: a float with these bits
        **_columns(("normal_x", "normal_y", "normal_z"), normals.astype(np.float32)),
    }
    if cloud.confidence is not None:
        columns["confidence"] = cloud.confidence
    table, fields = _table(columns), len(columns)
    assert table.itemsize == 4 * fields, "the header says that every field is a float32"
    header = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(columns)}",
        f"SIZE{' 4' * fields}",
        f"TYPE{' F' * fields}",
        f"COUNT{' 1' * fields}",
        f"WIDTH {len(table)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(table)}",
        "DATA binary\n",
    ]
    return write_bytes(path, "\n".join(header).encode("ascii") + table.tobytes())


def write_glb(path: Path, cloud: ExportCloud) -> Path:
    """Binary glTF: y up, the reference's forward direction along +z, metres; one named point cloud per vehicle."""
    scene = trimesh.Scene()
    for k, name in enumerate(cloud.names):
        own = cloud.of_vehicle(k)
        if own.any():
            points = cloud.points[own] @ GLTF_FROM_OPENCV.T
            label = f"vehicle_{k}_{safe_name(name)}"
            scene.add_geometry(
                trimesh.PointCloud(points, colors=cloud.rgb[own]), node_name=label, geom_name=label
            )
    return write_bytes(path, scene.export(file_type="glb"))


def write_npz(path: Path, cloud: ExportCloud, T_world_ref: NDArray[np.float64] | None = None) -> Path:
    """Everything as compressed numpy arrays, OpenCV axes, reference frame, metres; ``np.load`` needs no pickle.

    Arrays: ``points rgb normals range_m vehicle [confidence] names T_ref_view frame [T_world_ref]``.
    """
    arrays: dict[str, NDArray] = {
        "points": cloud.points,
        "rgb": cloud.rgb,
        "normals": cloud.normals,
        "range_m": cloud.range_m,
        "vehicle": cloud.vehicle,
        "names": np.array(cloud.names, dtype=np.str_),
        "T_ref_view": cloud.T_ref_view,
        "frame": np.array("reference panorama; OpenCV axes: x right, y down, z forward; metres"),
    }
    if cloud.confidence is not None:
        arrays["confidence"] = cloud.confidence
    if T_world_ref is not None:
        arrays["T_world_ref"] = T_world_ref
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return write_bytes(path, buffer.getvalue())


def _columns(names: tuple[str, ...], array: NDArray) -> dict[str, NDArray]:
    return dict(zip(names, array.T, strict=True))


def _table(columns: dict[str, NDArray]) -> NDArray:
    """Columns of equal length as one structured array, little-endian and without gaps."""
    dtype = np.dtype([(name, column.dtype.newbyteorder("<")) for name, column in columns.items()])
    table = np.empty(len(next(iter(columns.values()))), dtype)
    for name, column in columns.items():
        table[name] = column
    return table


def _one_line(text: str) -> str:
    """Printable ASCII on one line: headers of PLY know nothing else."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)
