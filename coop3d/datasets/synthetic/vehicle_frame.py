"""One vehicle at one instant: what its sensors measure, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import SeedSequence, default_rng
from numpy.typing import NDArray

from coop3d.files import write_bytes
from coop3d.geometry.carla import carla_pose_to_matrix, matrix_to_carla_pose

from . import sensors, writer
from .config import SPLITS, SyntheticConfig
from .rig import OPV2V_RIG
from .scenario import Instant, VehicleState

N_CAMERAS = len(OPV2V_RIG.cameras)  # of every rig


def vehicle_files(images: Path, depth: Path | None, stem: str) -> list[Path]:
    """All files of a vehicle-frame, the YAML last: it is the mark of completion."""
    out = [images / f"{stem}_camera{i}.png" for i in range(N_CAMERAS)] + [images / f"{stem}.pcd"]
    if depth is not None:
        out += [depth / f"{stem}_camera{i}_depth.npy" for i in range(N_CAMERAS)]
    return [*out, images / f"{stem}.yaml"]


def write_vehicle_frame(
    instant: Instant, agent: int, config: SyntheticConfig, key: tuple[str, int], images: Path, depth: Path | None,
    stem: str,
) -> None:  # fmt: skip
    """Render and write one vehicle at one instant; ``key`` is (split, index of the scenario)."""
    seeds = _seeds(config, key, agent)
    gains = np.exp(config.exposure_spread * default_rng(SeedSequence(seeds)).standard_normal(N_CAMERAS))
    measured = _measure(instant, agent, config, key)
    writer.write_pcd(images / f"{stem}.pcd", measured.points, measured.intensity)
    for i, cords in enumerate(measured.cords):
        T_world_camera = carla_pose_to_matrix(cords)
        bgr, z_m = sensors.render_camera(instant, T_world_camera, config.image_size, agent, gains[i])
        writer.write_png(images / f"{stem}_camera{i}.png", bgr)
        if depth is not None:
            writer.write_depth(depth / f"{stem}_camera{i}_depth.npy", z_m)
    _write_yaml(images / f"{stem}.yaml", instant, agent, config, measured)


def write_vehicle_yaml(
    instant: Instant, agent: int, config: SyntheticConfig, key: tuple[str, int], images: Path, stem: str
) -> None:
    """The YAML that :func:`write_vehicle_frame` writes, and nothing else.

    The LiDAR is traced all the same: a vehicle is listed where a beam hits it.
    """
    measured = _measure(instant, agent, config, key)
    _write_yaml(images / f"{stem}.yaml", instant, agent, config, measured)


class _Measured(NamedTuple):
    """What a vehicle knows of its sensors at an instant before it takes photographs."""

    lidar_pose: NDArray[np.float64]  # [6] as in YAML
    cords: list[NDArray[np.float64]]  # [6] of each camera
    points: NDArray[np.float64]  # [N, 3]
    intensity: NDArray[np.uint8]  # [N]
    owner: NDArray[np.int64]  # [N] id of the vehicle hit, negative for the town
    gnss_error: NDArray[np.float64]  # [6] of the reported pose


def _seeds(config: SyntheticConfig, key: tuple[str, int], agent: int) -> tuple[int, ...]:
    return config.seed, SPLITS.index(key[0]), key[1], 5, agent


def _measure(instant: Instant, agent: int, config: SyntheticConfig, key: tuple[str, int]) -> _Measured:
    rng = default_rng(SeedSequence((*_seeds(config, key, agent), instant.frame)))
    T, rig = instant.vehicles[agent].T_world_vehicle, instant.scenario.domain.rig
    lidar_pose = matrix_to_carla_pose(T @ rig.T_vehicle_lidar())
    T_world_lidar = carla_pose_to_matrix(lidar_pose)
    points, intensity, owner = sensors.scan_lidar(instant, T_world_lidar, config.lidar_points, agent, rng)
    cords = [matrix_to_carla_pose(T @ rig.T_vehicle_camera(i)) for i in range(N_CAMERAS)]
    error = rng.standard_normal(6) * [0.1, 0.1, 0.05, 0.0, 0.2, 0.0]  # of what a GNSS receiver would say
    return _Measured(lidar_pose, cords, points, intensity, owner, error)


def _write_yaml(
    path: Path, instant: Instant, agent: int, config: SyntheticConfig, measured: _Measured
) -> None:
    me = instant.vehicles[agent]
    T_world_lidar = carla_pose_to_matrix(measured.lidar_pose)
    record: dict[str, Any] = {}
    for i, cords in enumerate(measured.cords):
        record[f"camera{i}"] = {
            "cords": cords.tolist(),
            "extrinsic": (np.linalg.inv(carla_pose_to_matrix(cords)) @ T_world_lidar).tolist(),
            "intrinsic": instant.scenario.domain.rig.intrinsic(config.image_size).tolist(),
        }
    ego = matrix_to_carla_pose(me.T_world_vehicle)
    hit = np.unique(measured.owner[measured.owner >= 0])
    record["ego_speed"] = me.speed_kmh
    record["lidar_pose"] = measured.lidar_pose.tolist()
    record["plan_trajectory"] = instant.scenario.plan(agent, instant.frame)
    record["predicted_ego_pos"] = (ego + measured.gnss_error).tolist()
    record["true_ego_pos"] = ego.tolist()
    record["vehicles"] = {int(i): _annotation(instant.vehicles[int(i)]) for i in hit}
    write_bytes(path, writer.yaml_text(record).encode())


def _annotation(v: VehicleState) -> dict[str, list[float] | float]:
    pose: NDArray[np.float64] = matrix_to_carla_pose(v.T_world_vehicle)
    return {
        "angle": pose[3:].tolist(),
        "center": v.body.center.tolist(),
        "extent": v.body.extent.tolist(),
        "location": pose[:3].tolist(),
        "speed": v.speed_kmh,
    }
