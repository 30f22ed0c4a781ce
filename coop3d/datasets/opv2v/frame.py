"""One vehicle at one instant, calibrated and in OpenCV axes. Conversion from CARLA happens here, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tokenize import TokenError

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v.entry import FrameEntry
from coop3d.datasets.opv2v.sweeps import load_sweeps
from coop3d.datasets.opv2v.yaml_io import load_yaml, number_array
from coop3d.datasets.png import decode_rgb
from coop3d.geometry.cameras import PinholeCamera
from coop3d.geometry.carla import pose_to_opencv
from coop3d.geometry.distortion import LENGTHS as DISTORTION_LENGTHS
from coop3d.geometry.transforms import invert_rigid
from coop3d.types import CameraView, LidarSweep, RigFrame

DEPTH_SOURCES = ("auto", "dense", "lidar", "fused", "none")

# A projected LiDAR covers a few per cent of the pixels; a rendering covers everything but the sky.
DENSE_FRACTION = 0.2

# CARLA's depth camera gives 1000 m, its far plane, for the sky and for everything farther.
FAR_PLANE_M = np.float32(999.9)
ROUNDED_NEAREST_M = 10  # nearer depth in whole metres is no supervision

# What numpy raises, depending on which byte of a file or its header is wrong.
_UNREADABLE = (OSError, ValueError, EOFError, SyntaxError, TokenError, MemoryError)


def load_rig_frame(
    entry: FrameEntry,
    depth_source: str = "auto",
    partners: Sequence[FrameEntry] = (),
    *,
    with_sweep: bool = False,
) -> RigFrame:
    """Read everything of one frame.

    Args:
        entry: from `OPV2VIndex.frames`.
        depth_source: ``dense`` depth files, the frame's own ``lidar`` cloud, the clouds of all vehicles of the
            instant ``fused``, ``none``, or ``auto``: dense where the files are there, actually dense and not rounded
            to whole metres, else the own cloud, else whatever depth files there are, else none.
        partners: the other vehicles of the instant, for ``fused``.
        with_sweep: read the own cloud also where it is not the source of depth.

    Raises:
        DataError: a file is missing, unreadable or inconsistent with its calibration.
    """
    if depth_source not in DEPTH_SOURCES:
        raise ValueError(f"depth_source is {depth_source!r}, expected one of {DEPTH_SOURCES}")
    path = entry.yaml_path
    meta = load_yaml(path, keys={"lidar_pose", *entry.camera_names})
    T_world_rig = pose_to_opencv(number_array(path, meta, "lidar_pose", (6,)))
    views = [_view(entry, i, meta, T_world_rig) for i in range(len(entry.camera_names))]
    if not entry.any_rig:
        _check_equal_sizes(entry, views)
    z_m = _depth_images(entry, views, depth_source)
    rounded = z_m is not None and entry.depth_is_rounded
    dense = z_m is not None and not rounded and all(_is_dense(z) for z in z_m)
    if depth_source == "dense" and not (dense or rounded):
        assert entry.depth_paths is not None
        raise DataError(
            f"{entry.depth_paths[0]}: depth is sparse (under {DENSE_FRACTION:.0%} of the pixels), but "
            "depth_source=dense was asked for; use depth_source=auto, lidar or fused"
        )
    sweeps: tuple[LidarSweep, ...] = ()
    if (
        depth_source in ("lidar", "fused")
        or with_sweep
        or (depth_source == "auto" and not dense and entry.pcd_path is not None)
    ):
        sweeps = load_sweeps(entry, partners if depth_source == "fused" else (), T_world_rig)
    if z_m is not None:
        views = [replace(view, z_m=z) for view, z in zip(views, z_m, strict=True)]
    return RigFrame(
        key=entry.key,
        views=tuple(views),
        T_world_rig=T_world_rig,
        depth_is_dense=dense,
        depth_quantum_m=1.0 if rounded else 0.0,
        sweeps=sweeps,
    )


def _view(entry: FrameEntry, i: int, meta: dict, T_world_rig: NDArray[np.float64]) -> CameraView:
    name = entry.camera_names[i]
    image = read_image(entry.image_paths[i])
    camera = _intrinsics(entry.yaml_path, meta, name, image, entry.image_paths[i])
    T_world_cam = pose_to_opencv(number_array(entry.yaml_path, meta, f"{name}.cords", (6,)))
    return CameraView(
        name=name,
        camera=camera,
        T_rig_cam=invert_rigid(T_world_rig) @ T_world_cam,
        image=image,
    )


def _depth_images(
    entry: FrameEntry, views: Sequence[CameraView], depth_source: str
) -> list[NDArray[np.float32]] | None:
    if depth_source not in ("auto", "dense"):
        return None
    if entry.depth_paths is None:
        if depth_source == "dense":
            raise DataError(
                f"{entry.yaml_path}: depth_source=dense needs depth files, but none are known of this frame; set "
                "machine.opv2v_depth_root (--depth-root), or use depth_source=auto, lidar or fused"
            )
        return None
    files = list(zip(entry.depth_paths, (view.image.shape[:2] for view in views), strict=True))
    prefers_cloud = depth_source == "auto" and entry.has_cloud
    if prefers_cloud and entry.depth_is_rounded:
        return None  # a cloud is 25 times as accurate
    if not prefers_cloud:
        read = read_rounded_depth if entry.depth_is_rounded else read_depth
        return [read(*file) for file in files]
    z_m: list[NDArray[np.float32]] = []
    for path, size in files:
        z_m.append(read_depth(path, size, may_be_empty=not z_m))  # beside dense files, an empty one is broken
        if not _is_dense(z_m[-1]):
            return None  # the cloud instead; the other files need not be read
    return z_m


def read_image(path: Path) -> NDArray[np.uint8]:
    """[h, w, 3] RGB, or a `DataError` naming the file."""
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a PNG photograph") from error
    image = decode_rgb(encoded)
    if image is None:
        raise DataError(
            f"{path}: {encoded.size} bytes that are not a readable image; expected a PNG photograph. "
            "Copy the file again, or move the frame's .yaml away to leave it out."
        )
    return image


def read_depth(path: Path, size: tuple[int, int], *, may_be_empty: bool = False) -> NDArray[np.float32]:
    """[h, w] planar z-depth in metres; NaN where the file has 0, a negative or non-finite value, or the far plane.

    Raises:
        DataError: unreadable, of another size, or without any depth (unless it ``may_be_empty``).
    """
    try:
        z = np.load(path, allow_pickle=False)
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable .npy array ({error}); expected float32 z-depth") from error
    if z.shape != size or not np.issubdtype(z.dtype, np.floating):
        raise DataError(
            f"{path}: depth is {z.dtype} of shape {z.shape}, expected float of the photograph's (height, width) "
            f"{size}; the depth root belongs to other images"
        )
    z = np.ascontiguousarray(z, np.float32)
    if _clean(z.reshape(-1)) == 0 and not may_be_empty:
        raise DataError(
            f"{path}: every pixel is 0, negative, NaN or infinite; expected z-depth in metres. The file is broken, "
            "or its unit is not metres."
        )
    return z


@njit(cache=True)
def _clean(z: NDArray[np.float32]) -> int:
    """Turn what is no depth into NaN, in place and in one pass; the number of values that remain."""
    valid = 0
    for i in range(z.size):
        if 0 < z[i] < FAR_PLANE_M:
            valid += 1
        else:
            z[i] = np.nan
    return valid


def read_rounded_depth(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    """[h, w] planar z-depth from an 8-bit PNG of whole metres, up to 0.5 m off; NaN where none can be trusted.

    NaN are 0 and 255 (none; whether sky or farther than 254 m is not said), and everything nearer than
    `ROUNDED_NEAREST_M`, where half a metre is more than 5 %. A frame of such depth does not count as dense: steps of
    a metre must not be interpolated, and what has no value is unknown, not sky. The releases do not say whether
    values were rounded or cut off; rounding is assumed (else z is 0.5 m too small on average).
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected an 8-bit PNG of metres") from error
    metres = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if encoded.size else None
    if metres is None or metres.dtype != np.uint8 or metres.shape != size:
        found = "no readable image" if metres is None else f"{metres.dtype} of shape {metres.shape}"
        raise DataError(
            f"{path}: depth is {found}, expected 8 bits per pixel, one channel, of the photograph's (height, width) "
            f"{size}: whole metres. Other encodings (CARLA's 24-bit) are not supported; convert to float32 .npy."
        )
    trusted = (metres >= ROUNDED_NEAREST_M) & (metres < 255)
    return np.where(trusted, metres, np.nan).astype(np.float32)


def _is_dense(z_m: NDArray[np.float32]) -> bool:
    return float(np.isfinite(z_m[::4, ::4]).mean()) > DENSE_FRACTION


def _intrinsics(path: Path, meta: dict, name: str, image: np.ndarray, image_path: Path) -> PinholeCamera:
    K = number_array(path, meta, f"{name}.intrinsic", (3, 3))
    distortion = _distortion(path, meta, name)
    height, width = image.shape[:2]
    try:
        camera = PinholeCamera.from_matrix(K, width, height, distortion)
    except ValueError as error:
        raise DataError(f"{path}: key '{name}.intrinsic': {error}") from error
    if abs(camera.cx - width / 2) > width / 8 or abs(camera.cy - height / 2) > height / 8:
        raise DataError(
            f"{image_path}: image is {width} x {height}, but the principal point in {path.name} key "
            f"'{name}.intrinsic' is ({camera.cx:g}, {camera.cy:g}); expected it near the image centre. The image "
            "was resized or belongs to another rig."
        )
    return camera


def _distortion(path: Path, meta: dict, name: str) -> tuple[float, ...]:
    """The optional key ``cameraN.distortion``, in OpenCV's order; OPV2V's own cameras have none."""
    value = meta[name].get("distortion")
    if value is None:
        return ()
    length = len(value) if isinstance(value, (list, tuple)) else 0
    if length not in DISTORTION_LENGTHS:
        raise DataError(
            f"{path}: key '{name}.distortion' is {str(value)[:60]!r}, expected a list of {DISTORTION_LENGTHS} numbers: "
            "k1, k2, p1, p2[, k3[, k4, k5, k6]] in OpenCV's order. Fisheye lenses are not supported."
        )
    return tuple(number_array(path, meta, f"{name}.distortion", (length,)).tolist())


def _check_equal_sizes(entry: FrameEntry, views: list[CameraView]) -> None:
    sizes = {v.name: v.image.shape[1::-1] for v in views}
    if len(set(sizes.values())) > 1:
        raise DataError(
            f"{entry.yaml_path.parent}: frame {entry.key.frame} mixes image sizes {sizes}; expected all "
            "photographs of one rig to have the same size"
        )
