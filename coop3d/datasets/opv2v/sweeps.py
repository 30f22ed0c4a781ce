"""LiDAR sweeps of one instant, in the frame of one rig, without the rig's own body."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v.boxes import VehicleBox, listed_vehicles, vehicle_box
from coop3d.datasets.opv2v.entry import FrameEntry
from coop3d.datasets.opv2v.pcd import read_pcd
from coop3d.geometry.carla import carla_points_to_opencv
from coop3d.geometry.transforms import invert_rigid, transform_points
from coop3d.types import LidarSweep

BODY_MARGIN_M = 0.15  # around a vehicle's box: mirrors, noise of the LiDAR


def load_sweeps(
    entry: FrameEntry, partners: Sequence[FrameEntry], T_world_rig: NDArray[np.float64]
) -> tuple[LidarSweep, ...]:
    """The own sweep, then every partner's, moved by its pose.

    A partner's LiDAR sees the body of this rig's vehicle, which its own cameras do not: those points are removed
    with the box that the partner's YAML lists for this vehicle (it lists exactly the vehicles that its LiDAR hit).

    Raises:
        DataError: a cloud is missing or unreadable.
    """
    own = LidarSweep(points=_cloud(entry), T_rig_sensor=np.eye(4))
    T_rig_world = np.asarray(invert_rigid(T_world_rig), np.float64)
    return (own, *(_partner_sweep(entry, partner, T_rig_world) for partner in partners))


def _partner_sweep(entry: FrameEntry, partner: FrameEntry, T_rig_world: NDArray[np.float64]) -> LidarSweep:
    points, T_world_sensor = _cloud(partner), partner.lidar_pose()
    box = _body_of(entry, partner)
    if box is not None:
        T_box_sensor = invert_rigid(box.T_world_box) @ T_world_sensor
        in_box = transform_points(T_box_sensor, points.astype(np.float64))
        points = points[(np.abs(in_box) > box.half_size_m + BODY_MARGIN_M).any(axis=1)]
    return LidarSweep(points=points, T_rig_sensor=T_rig_world @ T_world_sensor)


def _body_of(entry: FrameEntry, partner: FrameEntry) -> VehicleBox | None:
    """The box of ``entry``'s vehicle as ``partner`` lists it; None: its LiDAR did not hit that vehicle."""
    agent = entry.key.agent
    listed = listed_vehicles(partner.yaml_path).get(agent)
    return None if listed is None else vehicle_box(partner.yaml_path, agent, listed)


def _cloud(entry: FrameEntry) -> NDArray[np.float32]:
    if entry.pcd_path is None:
        raise DataError(
            f"{entry.yaml_path.with_suffix('.pcd')}: no LiDAR cloud beside the frame; use depth_source=dense, or "
            "none to work without range"
        )
    return carla_points_to_opencv(read_pcd(entry.pcd_path).xyz)
