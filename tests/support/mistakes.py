"""The classic mistakes of a panorama pipeline, to be injected into sound data and code.

Files are changed on disk; code is changed through `Panorama` fields after stitching and through the public functions
of `geometry`, so that injections survive a rewrite of the stitcher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import yaml

from coop3d.geometry import PinholeCamera
from coop3d.geometry.carla import carla_pose_to_matrix
from coop3d.types import Panorama, RigFrame


class AfterStitching:
    """Wraps a stitcher; ``change(panorama, frame)`` spoils what it returns, ``before(frame)`` what it gets."""

    def __init__(
        self,
        stitcher: Callable[..., Panorama],
        change: Callable[[Panorama, RigFrame], Panorama] = lambda panorama, frame: panorama,
        before: Callable[[RigFrame], RigFrame] = lambda frame: frame,
    ) -> None:
        self.stitcher, self.change, self.before = stitcher, change, before

    def __call__(self, frame: RigFrame, *where: np.ndarray | None) -> Panorama:
        return self.change(self.stitcher(self.before(frame), *where), frame)


# 1. Euler angles


def _rotation(axis: str, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    R = np.eye(4)
    R[i, i] = R[j, j] = c
    R[i, j], R[j, i] = -s, s
    return R


def _pose(pose: np.ndarray, *rotations: np.ndarray) -> np.ndarray:
    T = np.linalg.multi_dot(rotations)
    T[:3, 3] = pose[:3]
    return T


def _each(one: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Like `carla_pose_to_matrix`, for one pose or many."""

    def many(poses):
        poses = np.asarray(poses, float)
        return np.stack([one(p) for p in poses.reshape(-1, 6)]).reshape(*poses.shape[:-1], 4, 4)

    return many


WRONG_EULER = {
    "reversed order": _each(
        lambda p: _pose(p, _rotation("x", -p[3]), _rotation("y", -p[5]), _rotation("z", p[4]))
    ),
    "right-handed signs": _each(
        lambda p: _pose(p, _rotation("z", p[4]), _rotation("y", p[5]), _rotation("x", p[3]))
    ),
    "pitch read as roll": _each(lambda p: carla_pose_to_matrix(p[[0, 1, 2, 5, 4, 3]])),
    "yaw turned the other way": _each(lambda p: carla_pose_to_matrix(p * [1, 1, 1, 1, -1, 1])),
}


def write_wrong_angles(root: Path) -> None:
    """Roll and pitch with the wrong sign in all poses, extrinsics made from them: consistent, but wrong."""
    for path in root.glob("images/*/*/*/*.yaml"):
        meta = yaml.safe_load(path.read_text())
        sign = np.array([1, 1, 1, -1, 1, -1])
        meta["lidar_pose"] = (sign * meta["lidar_pose"]).tolist()
        T_world_lidar = carla_pose_to_matrix(meta["lidar_pose"])
        for camera in (v for k, v in meta.items() if k.startswith("camera")):
            camera["cords"] = (sign * camera["cords"]).tolist()
            camera["extrinsic"] = (
                np.linalg.inv(carla_pose_to_matrix(camera["cords"])) @ T_world_lidar
            ).tolist()
        path.write_text(yaml.safe_dump(meta))


# 2. cropped photographs


def cropped(frame: RigFrame, *, adjust_intrinsics: bool) -> RigFrame:
    """Every photograph, and its depth, cut to 4:1 about its middle row."""
    views = []
    for view in frame.views:
        w, h = view.camera.width, view.camera.width // 4
        top = (view.camera.height - h) // 2
        cy = view.camera.cy - top if adjust_intrinsics else view.camera.cy
        views.append(
            replace(
                view,
                camera=replace(view.camera, height=h, cy=cy),
                image=np.ascontiguousarray(view.image[top : top + h, :w]),
                z_m=None if view.z_m is None else np.ascontiguousarray(view.z_m[top : top + h, :w]),
            )
        )
    return replace(frame, views=tuple(views))


def crop_files(root: Path, *, adjust_intrinsics: bool) -> None:
    """The same on disk."""
    for path in root.glob("images/*/*/*/*.png"):
        image = cv2.imread(str(path))
        h = image.shape[1] // 4
        top = (image.shape[0] - h) // 2
        cv2.imwrite(str(path), image[top : top + h])
        depth = root / "depth" / path.relative_to(root / "images").with_name(f"{path.stem}_depth.npy")
        np.save(depth, np.load(depth)[top : top + h])
    if adjust_intrinsics:
        for path in root.glob("images/*/*/*/*.yaml"):
            meta = yaml.safe_load(path.read_text())
            for camera in (v for k, v in meta.items() if k.startswith("camera")):
                camera["intrinsic"][1][2] = camera["intrinsic"][0][2] / 4  # cy of a 4:1 image
            path.write_text(yaml.safe_dump(meta))


# 3. z-depth taken as range


def depth_files_as_range(root: Path) -> None:
    """Depth files hold the length of the ray."""
    for path in root.glob("depth/*/*/*/*.npy"):
        z = np.load(path)
        v, u = np.indices(z.shape) + 0.5
        f = z.shape[1] / 2 / np.tan(np.radians(50))
        factor = np.sqrt(((u - z.shape[1] / 2) / f) ** 2 + ((v - z.shape[0] / 2) / f) ** 2 + 1)
        np.save(path, (z * factor).astype(np.float32))


def range_is_z(panorama: Panorama, frame: RigFrame) -> Panorama:
    """What stitching gives when it takes z for range: the range shrinks by the cosine to the optical axis."""
    range_m = panorama.range_m.copy()
    T_pano_rig = np.linalg.inv(panorama.T_world_pano) @ frame.T_world_rig
    for k, view in enumerate(frame.views):
        cosine = panorama.camera.rays() @ (T_pano_rig @ view.T_rig_cam)[:3, 2]
        mine = panorama.source == k
        range_m[mine] *= cosine[mine].astype(np.float32)
    return replace(panorama, range_m=range_m)


# 4. rays that start at the rig's centre


def origins_at_the_centre(panorama: Panorama, frame: RigFrame) -> Panorama:
    return replace(panorama, origins=np.zeros_like(panorama.origins))


# 5. depth averaged across edges and with zeros


def bilinear_range(panorama: Panorama, frame: RigFrame) -> Panorama:
    """Range from plain bilinear interpolation of z, no edge respected; sky counts as zero."""
    range_m = np.full(panorama.range_m.shape, np.nan, np.float32)
    T_pano_rig = np.linalg.inv(panorama.T_world_pano) @ frame.T_world_rig
    for k, view in enumerate(frame.views):
        rays = panorama.camera.rays() @ (T_pano_rig @ view.T_rig_cam)[:3, :3]
        uv = view.camera.project(rays)[0].astype(np.float32) - np.float32(0.5)
        z = cv2.remap(np.nan_to_num(view.z_m), uv, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mine = panorama.source == k
        range_m[mine] = (z / rays[..., 2])[mine]
    range_m[~(range_m > 0)] = np.nan
    return replace(panorama, range_m=range_m, valid=np.isfinite(range_m))


def blurred_range(panorama: Panorama, frame: RigFrame) -> Panorama:
    """Sparse range averaged with the zeros around it."""
    mean = cv2.blur(np.nan_to_num(panorama.range_m), (3, 3))
    range_m = np.where(panorama.covered & (mean > 0), mean, np.nan).astype(np.float32)
    return replace(panorama, range_m=range_m, valid=np.isfinite(range_m))


def blur_depth_files(root: Path) -> None:
    """Depth images averaged over 3x3 pixels, zeros included."""
    for path in root.glob("depth/*/*/*/*.npy"):
        np.save(path, cv2.blur(np.load(path), (3, 3)))


def project_lidar_to_depth_files(root: Path, *, spread: bool) -> None:
    """Replace dense depth by the own sweep projected into the cameras (as the team's files); ``spread`` blurs it."""
    from coop3d.datasets.opv2v import OPV2VIndex, load_rig_frame
    from coop3d.geometry.transforms import invert_rigid, transform_points

    for split in (p for p in (root / "images").iterdir() if p.is_dir()):
        for entry in OPV2VIndex(root / "images", split.name, root / "depth").frames:
            frame = load_rig_frame(entry, "lidar")
            for path, view in zip(entry.depth_paths, frame.views, strict=True):
                points = transform_points(
                    invert_rigid(view.T_rig_cam), frame.sweeps[0].points_rig.astype(float)
                )
                uv, inside = view.camera.project(points)
                order = np.argsort(-points[inside, 2])  # the nearest is written last
                z = np.zeros((view.camera.height, view.camera.width), np.float32)
                column, row = uv[inside][order].astype(int).T
                z[row, column] = points[inside, 2][order]
                np.save(path, cv2.blur(z, (5, 5)) if spread else z)


# 6. masks that mean coverage


def mask_is_coverage(panorama: Panorama, frame: RigFrame) -> Panorama:
    return replace(panorama, non_ambiguous=panorama.covered.copy())


def mask_is_coverage_and_known(panorama: Panorama, frame: RigFrame) -> Panorama:
    return replace(
        panorama, non_ambiguous=panorama.covered.copy(), mask_known=np.ones_like(panorama.mask_known)
    )


def z_is_range_in_code(monkeypatch) -> None:
    """Code that believes depth files hold range."""
    monkeypatch.setattr(PinholeCamera, "range_per_z", lambda self, uv: np.ones(np.shape(uv)[:-1]))
