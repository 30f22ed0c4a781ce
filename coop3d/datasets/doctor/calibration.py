"""Checks of poses, intrinsics and coverage. They recompute from the calibration what stitching should have done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.doctor.report import Measured
from coop3d.datasets.opv2v import FrameEntry, load_yaml, number_array
from coop3d.geometry.cameras import Camera, PinholeCamera
from coop3d.geometry.carla import carla_to_opencv
from coop3d.geometry.transforms import invert_rigid, rotation_angle, transform_points
from coop3d.types import Panorama, RigFrame

WIDEST_PHOTOGRAPH = 2.2  # width over height; what is wider is taken for a crop of a 4:3 photograph
_GRID = (512, 160)  # directions over the panorama for the prediction of coverage


def extrinsics(entry: FrameEntry, frame: RigFrame) -> Iterator[Measured]:
    """``cameraN.extrinsic`` against ``cameraN.cords`` and ``lidar_pose``, the worst camera of the frame."""
    meta = load_yaml(entry.yaml_path, keys=entry.camera_names)
    differences = []  # identity when both agree
    for view in frame.views:
        if "extrinsic" in meta[view.name]:
            written = carla_to_opencv(number_array(entry.yaml_path, meta, f"{view.name}.extrinsic", (4, 4)))
            differences.append(written @ view.T_rig_cam)
    if differences:
        D = np.stack(differences)
        yield Measured(
            "extrinsic against cords, translation", float(np.linalg.norm(D[:, :3, 3], axis=1).max())
        )
        yield Measured(
            "extrinsic against cords, rotation", float(np.degrees(rotation_angle(D[:, :3, :3])).max())
        )


def coverage(frame: RigFrame, panorama: Panorama) -> Iterator[Measured]:
    """The covered share against what the rig's uncropped photographs can cover, and where rays start."""
    T_pano_rig = invert_rigid(panorama.T_world_pano) @ frame.T_world_rig
    poses = [T_pano_rig @ view.T_rig_cam for view in frame.views]
    predicted = predicted_coverage(panorama.camera, [_uncropped(v.camera) for v in frame.views], poses)
    if panorama.kind == "rig":
        yield Measured("panorama covered", float(panorama.covered.mean()), predicted)
        yield Measured("ray origins against camera centres", _origin_error(panorama.origins, poses))
    else:  # one centre of projection: parallax leaves holes, and every ray starts at the centre
        yield Measured("panorama covered, one centre", float(panorama.covered.mean()), predicted)


def predicted_coverage(
    panorama: Camera, cameras: list[PinholeCamera], T_pano_cam: list[NDArray[np.float64]]
) -> float:
    """Share of the panorama's directions that lie in some photograph, computed without the stitcher."""
    columns, rows = _GRID
    u, v = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    directions = panorama.directions(np.stack([u * panorama.width, v * panorama.height], axis=-1))
    seen = np.zeros(u.shape, bool)
    for camera, T in zip(cameras, T_pano_cam, strict=True):
        seen |= camera.project(directions @ T[:3, :3])[1]  # R^T d for row vectors
    return float(seen.mean())


def _uncropped(camera: PinholeCamera) -> PinholeCamera:
    """The camera with a height of 3/4 of its width, if its photograph is so wide that it was probably cropped."""
    if camera.width <= WIDEST_PHOTOGRAPH * camera.height:
        return camera
    height = round(0.75 * camera.width)
    return replace(camera, height=height, cy=camera.cy + (height - camera.height) / 2)


def _origin_error(origins: NDArray[np.float32], T_pano_cam: list[NDArray[np.float64]]) -> float:
    centres = np.stack([T[:3, 3] for T in T_pano_cam])
    if centres.shape != origins.shape:
        return float("inf")
    return float(np.linalg.norm(centres - origins, axis=1).max())


def rig_to_pano(frame: RigFrame, panorama: Panorama, points_rig: NDArray[np.floating]) -> NDArray[np.float64]:
    """[N, 3] points of the rig in the panorama's frame."""
    T_pano_rig = invert_rigid(panorama.T_world_pano) @ frame.T_world_rig
    return np.asarray(transform_points(T_pano_rig, points_rig.astype(np.float64)))
