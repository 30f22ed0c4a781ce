"""One vehicle at one instant, calibrated and in OpenCV axes. Conversion from CARLA happens here, once."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v.index import FrameEntry
from coop3d.datasets.opv2v.pcd import read_pcd
from coop3d.datasets.opv2v.yaml_io import load_yaml, number_array
from coop3d.geometry.cameras import PinholeCamera
from coop3d.geometry.carla import carla_points_to_opencv, pose_to_opencv
from coop3d.geometry.transforms import invert_rigid
from coop3d.types import CameraView, RigFrame

# A projected LiDAR covers a few per cent of the pixels; a rendering covers everything but the sky.
DENSE_FRACTION = 0.2


def load_rig_frame(entry: FrameEntry, *, with_depth: bool = True, with_cloud: bool = False) -> RigFrame:
    """Read everything of one frame.

    Args:
        entry: from `OPV2VIndex.frames`.
        with_depth: read the depth files where the index found some.
        with_cloud: read the LiDAR cloud.

    Raises:
        DataError: a file is missing, unreadable or inconsistent with its calibration.
    """
    path = entry.yaml_path
    meta = load_yaml(path, keys={"lidar_pose", *entry.camera_names})
    T_world_rig = pose_to_opencv(number_array(path, meta, "lidar_pose", (6,)))
    views = []
    for i, name in enumerate(entry.camera_names):
        image = read_image(entry.image_paths[i])
        camera = _intrinsics(path, meta, name, image, entry.image_paths[i])
        z_m = None
        if with_depth and entry.depth_paths is not None:
            z_m = read_depth(entry.depth_paths[i], image.shape[:2])
        T_world_cam = pose_to_opencv(number_array(path, meta, f"{name}.cords", (6,)))
        views.append(
            CameraView(
                name=name,
                camera=camera,
                T_rig_cam=invert_rigid(T_world_rig) @ T_world_cam,
                image=image,
                z_m=z_m,
            )
        )
    _check_equal_sizes(entry, views)
    return RigFrame(
        key=entry.key,
        views=tuple(views),
        T_world_rig=T_world_rig,
        depth_is_dense=all(v.z_m is not None and _is_dense(v.z_m) for v in views),
        cloud_rig=_cloud(entry) if with_cloud else None,
    )


def read_image(path: Path) -> NDArray[np.uint8]:
    """[h, w, 3] RGB, or a `DataError` naming the file."""
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a PNG photograph") from error
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise DataError(
            f"{path}: {encoded.size} bytes that are not a readable image; expected a PNG photograph. "
            "Copy the file again, or exclude the frame."
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_depth(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    """[h, w] planar z-depth in metres; 0, negative and non-finite values of the file become NaN (unknown)."""
    try:
        z = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable .npy array ({error}); expected float32 z-depth") from error
    if z.shape != size or not np.issubdtype(z.dtype, np.floating):
        raise DataError(
            f"{path}: depth is {z.dtype} of shape {z.shape}, expected float of the photograph's (height, width) "
            f"{size}; the depth root belongs to other images"
        )
    z = z.astype(np.float32)
    z[~((z > 0) & np.isfinite(z))] = np.nan
    if np.isnan(z).all():
        raise DataError(
            f"{path}: every pixel is 0, negative, NaN or infinite; expected z-depth in metres. The file is broken, "
            "or its unit is not metres."
        )
    return z


def _is_dense(z_m: NDArray[np.float32]) -> bool:
    return float(np.isfinite(z_m[::4, ::4]).mean()) > DENSE_FRACTION


def _intrinsics(path: Path, meta: dict, name: str, image: np.ndarray, image_path: Path) -> PinholeCamera:
    K = number_array(path, meta, f"{name}.intrinsic", (3, 3))
    height, width = image.shape[:2]
    try:
        camera = PinholeCamera.from_matrix(K, width, height)
    except ValueError as error:
        raise DataError(f"{path}: key '{name}.intrinsic': {error}") from error
    if abs(camera.cx - width / 2) > width / 8 or abs(camera.cy - height / 2) > height / 8:
        raise DataError(
            f"{image_path}: image is {width} x {height}, but the principal point in {path.name} key "
            f"'{name}.intrinsic' is ({camera.cx:g}, {camera.cy:g}); expected it near the image centre. The image "
            "was resized or belongs to another rig."
        )
    return camera


def _check_equal_sizes(entry: FrameEntry, views: list[CameraView]) -> None:
    sizes = {v.name: v.image.shape[1::-1] for v in views}
    if len(set(sizes.values())) > 1:
        raise DataError(
            f"{entry.yaml_path.parent}: frame {entry.key.frame} mixes image sizes {sizes}; expected all "
            "photographs of one rig to have the same size"
        )


def _cloud(entry: FrameEntry) -> NDArray[np.float32]:
    if entry.pcd_path is None:
        raise DataError(f"{entry.yaml_path.with_suffix('.pcd')}: no LiDAR cloud beside the frame")
    return carla_points_to_opencv(read_pcd(entry.pcd_path).xyz)
