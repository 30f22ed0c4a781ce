"""A COLMAP model in text form: rigs of pinhole pictures cut from each vehicle's panorama, and the cloud.

Formats: https://colmap.github.io/format.html. The world is the frame of the reference panorama in OpenCV axes, metres;
COLMAP's cameras and pixel coordinates (centre of the first pixel (0.5, 0.5)) have the project's own conventions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from coop3d.files import safe_name, write_bytes
from coop3d.geometry import invert_rigid, matrix_to_quat, transform_points
from coop3d.types import ViewInputs
from coop3d.visualization.arrays import photographs, to_numpy, view_origins
from coop3d.visualization.export.cloud import ExportCloud
from coop3d.visualization.export.pinholes import PinholeCut, cut_pinholes
from coop3d.visualization.figures import save_png


@dataclass(frozen=True)
class _Image:
    """One picture of the model; ``number`` is its IMAGE_ID and its camera's CAMERA_ID, from 1."""

    number: int
    name: str
    vehicle: int
    cut: PinholeCut
    T_cam_ref: NDArray[np.float64]


def write_colmap(
    folder: Path,
    cloud: ExportCloud,
    inputs: ViewInputs,
    covered: Sequence[NDArray[np.bool_]],
) -> Path:
    """Write ``images/``, ``masks/`` and ``sparse/0/{cameras,images,points3D,rigs,frames}.txt`` below ``folder``.

    Each vehicle is one rig; each point is observed in the picture of its own vehicle that shows it. Pixels that a
    picture cannot fill are black in it and in its mask (``masks/NAME.png``, as ``--ImageReader.mask_path`` wants).

    Args:
        folder: made if absent; pictures of an earlier export there are replaced.
        cloud: points and poses of the same sample.
        inputs: the panoramas; the first sample's are cut.
        covered: per view, [H, W] pixels with colour.

    Raises:
        ValueError: the views are no panoramas or pinhole pictures, or have no rays.
    """
    images = _images(cloud, inputs, covered)
    for name in ("images", "masks"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for image in images:
        save_png(folder / "images" / image.name, image.cut.image)
        mask = (image.cut.mask * 255).astype(np.uint8)[..., None].repeat(3, axis=-1)
        save_png(folder / "masks" / f"{image.name}.png", mask)
    observed = [_observations(image, cloud) for image in images]
    model = folder / "sparse" / "0"
    _write(model / "cameras.txt", map(_camera_line, images))
    _write(model / "images.txt", (line for i, seen in zip(images, observed, strict=True)
                                  for line in (_image_line(i), _points_line(*seen))))  # fmt: skip
    _write(model / "points3D.txt", _point_lines(cloud, images, observed))
    rigs = [[i for i in images if i.vehicle == v] for v in sorted({i.vehicle for i in images})]
    _write(model / "rigs.txt", (_rig_line(k + 1, rig) for k, rig in enumerate(rigs)))
    _write(model / "frames.txt", (_frame_line(k + 1, rig) for k, rig in enumerate(rigs)))
    return folder


def _images(cloud: ExportCloud, inputs: ViewInputs, covered: Sequence[NDArray[np.bool_]]) -> list[_Image]:
    if inputs.rays is None:
        raise ValueError("pictures are cut from the views' rays, which this sample does not have")
    out: list[_Image] = []
    for v, T_ref_view in enumerate(cloud.T_ref_view):
        if not np.isfinite(T_ref_view).all():
            continue  # the model diverged: this vehicle is nowhere
        rays = to_numpy(inputs.rays[0, v])
        origins = view_origins(inputs, rays, v)
        for k, cut in enumerate(cut_pinholes(photographs(inputs, v), rays, origins, covered[v])):
            name = f"{v}_{safe_name(cloud.names[v])}/camera{k}.png"
            T_cam_ref = np.asarray(invert_rigid(T_ref_view @ cut.T_view_cam), np.float64)
            out.append(_Image(len(out) + 1, name, v, cut, T_cam_ref))
    return out


def _observations(image: _Image, cloud: ExportCloud) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """([M, 2] pixels, [M] rows of the cloud) of the own vehicle's points that this picture shows."""
    own = np.flatnonzero(cloud.of_vehicle(image.vehicle))
    uv, inside = image.cut.camera.project(
        transform_points(image.T_cam_ref, cloud.points[own].astype(np.float64))
    )
    column, row = np.floor(uv[inside]).astype(np.int64).T
    shown = image.cut.mask[row, column]
    return uv[inside][shown], own[inside][shown]


def _camera_line(image: _Image) -> str:
    c = image.cut.camera
    return f"{image.number} PINHOLE {c.width} {c.height} {c.fx:.9g} {c.fy:.9g} {c.cx:.9g} {c.cy:.9g}"


def _image_line(image: _Image) -> str:
    return f"{image.number} {_pose(image.T_cam_ref)} {image.number} {image.name}"


def _pose(T: NDArray[np.float64]) -> str:
    """``QW QX QY QZ TX TY TZ``."""
    x, y, z, w = matrix_to_quat(torch.from_numpy(T[:3, :3].copy())).tolist()
    return " ".join(f"{value:.12g}" for value in (w, x, y, z, *T[:3, 3]))


def _points_line(uv: NDArray[np.float64], rows: NDArray[np.int64]) -> str:
    return " ".join(f"{u:.3f} {v:.3f} {k + 1}" for (u, v), k in zip(uv.tolist(), rows.tolist(), strict=True))


def _point_lines(
    cloud: ExportCloud,
    images: Sequence[_Image],
    observed: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]],
) -> Iterable[str]:
    tracks: dict[int, list[str]] = {}
    for image, (_, rows) in zip(images, observed, strict=True):
        for position, row in enumerate(rows.tolist()):
            tracks.setdefault(row, []).append(f"{image.number} {position}")
    for k, ((x, y, z), (r, g, b)) in enumerate(zip(cloud.points.tolist(), cloud.rgb.tolist(), strict=True)):
        yield f"{k + 1} {x:.6g} {y:.6g} {z:.6g} {r} {g} {b} 0 {' '.join(tracks.get(k, []))}".rstrip()


def _rig_line(number: int, rig: Sequence[_Image]) -> str:
    """The first picture's camera is the rig's origin; the others follow with their pose in it."""
    sensors = [
        f"CAMERA {image.number} 1 {_pose(image.T_cam_ref @ invert_rigid(rig[0].T_cam_ref))}"
        for image in rig[1:]
    ]
    return " ".join([f"{number} {len(rig)} CAMERA {rig[0].number}", *sensors])


def _frame_line(number: int, rig: Sequence[_Image]) -> str:
    data = [f"CAMERA {image.number} {image.number}" for image in rig]
    return f"{number} {number} {_pose(rig[0].T_cam_ref)} {len(rig)} {' '.join(data)}"


def _write(path: Path, lines: Iterable[str]) -> None:
    write_bytes(path, ("\n".join(lines) + "\n").encode())
