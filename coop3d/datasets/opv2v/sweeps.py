"""LiDAR sweeps of one instant, in the frame of one rig."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v.boxes import VehicleBox, listed_vehicles, vehicle_box
from coop3d.datasets.opv2v.entry import FrameEntry
from coop3d.datasets.opv2v.pcd import read_pcd
from coop3d.geometry.carla import carla_points_to_opencv
from coop3d.geometry.transforms import invert_rigid, transform_points
from coop3d.types import LidarSweep

T = TypeVar("T")

BODY_MARGIN_M = 0.15  # around a vehicle's box: mirrors, noise of the LiDAR


def load_sweeps(
    entry: FrameEntry, partners: Sequence[FrameEntry], T_world_rig: NDArray[np.float64]
) -> tuple[LidarSweep, ...]:
    """The own sweep, then that of every partner that has one, moved by its pose.

    A partner's LiDAR sees the body of this rig's vehicle, which its own cameras do not: those points are removed
    with the box that the partner's YAML lists for this vehicle (it lists exactly the vehicles that its LiDAR hit).

    Raises:
        DataError: the own cloud is missing or holds no point, or a cloud is unreadable.
    """
    own = LidarSweep(points=_own_cloud(entry), T_rig_sensor=np.eye(4))
    T_rig_world = np.asarray(invert_rigid(T_world_rig), np.float64)
    seeing = [(partner, partner.pcd_path) for partner in partners if partner.pcd_path is not None]
    return (own, *(_partner_sweep(entry, partner, path, T_rig_world) for partner, path in seeing))


def _partner_sweep(
    entry: FrameEntry, partner: FrameEntry, pcd_path: Path, T_rig_world: NDArray[np.float64]
) -> LidarSweep:
    points, T_world_sensor = _cloud(pcd_path), partner.lidar_pose()
    box = _body_of(entry, partner)
    if box is not None:
        T_box_sensor = invert_rigid(box.T_world_box) @ T_world_sensor
        in_box = transform_points(T_box_sensor, points.astype(np.float64))
        points = points[(np.abs(in_box) > box.half_size_m + BODY_MARGIN_M).any(axis=1)]
    return LidarSweep(points=points, T_rig_sensor=T_rig_world @ T_world_sensor)


def _body_of(entry: FrameEntry, partner: FrameEntry) -> VehicleBox | None:
    """The box of ``entry``'s vehicle as ``partner`` lists it; None: its LiDAR did not hit that vehicle."""
    agent = entry.key.agent
    listed = _kept(listed_vehicles, partner.yaml_path).get(agent)
    return None if listed is None else vehicle_box(partner.yaml_path, agent, listed)


def _own_cloud(entry: FrameEntry) -> NDArray[np.float32]:
    if entry.pcd_path is None:
        raise DataError(
            f"{entry.yaml_path.with_suffix('.pcd')}: no LiDAR cloud beside the frame; use depth_source=dense, or "
            "none to work without range"
        )
    points = _cloud(entry.pcd_path)
    if not len(points):
        raise DataError(
            f"{entry.pcd_path}: holds no point, expected the frame's LiDAR sweep; copy the file again, exclude the "
            "frame, or use depth_source=dense or none"
        )
    return points


def _cloud(path: Path) -> NDArray[np.float32]:
    return _kept(_read_cloud, path)


def _read_cloud(path: Path) -> NDArray[np.float32]:
    points = carla_points_to_opencv(read_pcd(path).xyz)
    points.flags.writeable = False  # shared by all who ask
    return points


def _kept(read: Callable[[Path], T], path: Path) -> T:
    """``read(path)``, kept while the file stays as it is."""
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return read(path)  # which says what is wrong
    return _read_once(read, path, stamp)


# The vehicles of an instant are loaded one after another, and each needs the clouds and YAML of all others.
@lru_cache(maxsize=16)
def _read_once(read: Callable[[Path], Any], path: Path, stamp: int) -> Any:
    return read(path)
