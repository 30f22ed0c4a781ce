"""Write analytic rigs to disk exactly as OPV2V lies there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import yaml
from support.analytic import Scene, render_rig, street, vehicle_pose

from coop3d.geometry.carla import matrix_to_carla_pose, opencv_points_to_carla, opencv_to_carla
from coop3d.types import RigFrame, SampleKey


def write_frame(images_root: Path, split: str, frame: RigFrame, depth_root: Path | None = None) -> Path:
    """One vehicle-frame: PNGs, YAML, ASCII PCD, depth. Returns the YAML's path."""
    folder = images_root / split / frame.key.scenario / frame.key.agent
    folder.mkdir(parents=True, exist_ok=True)
    stem = frame.key.frame
    meta: dict = {
        "lidar_pose": matrix_to_carla_pose(opencv_to_carla(frame.T_world_rig)).tolist(),
        "ego_speed": 10.0,
        "vehicles": {
            7: {
                "location": [1.0, 2.0, 0.0],
                "center": [0.1, 0.0, 0.8],
                "extent": [2.0, 1.0, 0.8],
                "angle": [0.0, 0.0, 0.0],
            }
        },
    }
    for view in frame.views:
        T_world_cam = frame.T_world_rig @ view.T_rig_cam
        meta[view.name] = {
            "cords": matrix_to_carla_pose(opencv_to_carla(T_world_cam)).tolist(),
            "intrinsic": view.camera.matrix.tolist(),
            "extrinsic": opencv_to_carla(np.linalg.inv(view.T_rig_cam)).tolist(),
        }
        cv2.imwrite(str(folder / f"{stem}_{view.name}.png"), view.image[..., ::-1])
        if depth_root is not None and view.z_m is not None:
            depth_folder = depth_root / split / frame.key.scenario / frame.key.agent
            depth_folder.mkdir(parents=True, exist_ok=True)
            np.save(depth_folder / f"{stem}_{view.name}_depth.npy", np.nan_to_num(view.z_m))
    (folder / f"{stem}.yaml").write_text(yaml.dump(meta))
    cloud = opencv_points_to_carla(np.random.default_rng(0).normal(size=(5, 3)))
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\n"
        "TYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 5\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 5\nDATA ascii\n"
    )
    rows = "\n".join(f"{x:.6f} {y:.6f} {z:.6f} 6553600" for x, y, z in cloud)
    (folder / f"{stem}.pcd").write_text(header + rows + "\n")
    return folder / f"{stem}.yaml"


def write_dataset(
    root: Path,
    split: str = "train",
    scenarios: int = 1,
    frames: int = 2,
    positions: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0), (3.0, 18.0, 20.0)),
    size: tuple[int, int] = (80, 60),
    slope: tuple[float, float] = (2.0, -3.0),
    scene: Scene | None = None,
) -> tuple[Path, Path]:
    """Scenarios with one vehicle per ``positions`` entry (x, z, yaw_deg); returns (images_root, depth_root)."""
    images_root, depth_root = root / "images", root / "depth"
    scene = scene or street(slope)
    for s in range(scenarios):
        scenario = f"2021_08_20_21_10_{s:02d}"
        for f in range(frames):
            for v, (x, z, yaw) in enumerate(positions):
                T = vehicle_pose(x + 0.3 * s, z + 0.7 * f, yaw, slope)
                key = SampleKey(scenario, str(100 * (v + 1) + 5), f"{68 + 2 * f:06d}")
                write_frame(images_root, split, render_rig(scene, T, size, key), depth_root)
        (images_root / split / scenario / "data_protocol.yaml").write_text("world: {sync_mode: true}\n")
    return images_root, depth_root
