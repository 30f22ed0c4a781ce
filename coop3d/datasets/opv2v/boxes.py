"""The vehicles that a frame's YAML lists, as boxes in OpenCV axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v.yaml_io import load_yaml, number_array
from coop3d.geometry.carla import carla_points_to_opencv, pose_to_opencv


class VehicleBox(NamedTuple):
    """A vehicle's box, in OpenCV axes."""

    name: str
    T_world_box: NDArray[np.float64]  # [4, 4] the box's centre and axes: x right, y down, z forward
    half_size_m: NDArray[np.float64]  # [3] half width, half height, half length


def load_boxes(path: Path) -> dict[str, VehicleBox]:
    """Boxes of the vehicles that the frame's LiDAR hit (OPV2V lists no others, and never the vehicle itself), by id.

    Raises:
        DataError: the file cannot be read, or an entry is malformed.
    """
    return {name: vehicle_box(path, name, value) for name, value in listed_vehicles(path).items()}


def listed_vehicles(path: Path) -> dict[str, Any]:
    """The entries of the key ``vehicles`` as the file has them, by id."""
    vehicles = load_yaml(path, keys={"vehicles"}).get("vehicles") or {}
    if not isinstance(vehicles, dict):
        raise DataError(
            f"{path}: key 'vehicles' is a {type(vehicles).__name__}, expected a mapping of ids to vehicles"
        )
    return {str(key): value for key, value in vehicles.items()}


def vehicle_box(path: Path, name: str, value: Any) -> VehicleBox:
    """The box of one entry of `listed_vehicles`.

    ``location`` is where the vehicle's own frame lies; ``center`` is the box's middle in that frame, so it turns with
    the vehicle; ``extent`` are half sizes and ``angle`` is roll, yaw, pitch.

    Raises:
        DataError: a value is missing or malformed.
    """

    def read(field: str) -> NDArray[np.float64]:
        return number_array(path, {"vehicles": {name: value}}, f"vehicles.{name}.{field}", (3,))

    T_vehicle_box = np.eye(4)
    T_vehicle_box[:3, 3] = carla_points_to_opencv(read("center"))
    T_world_vehicle = pose_to_opencv(np.concatenate([read("location"), read("angle")]))
    half_size = np.abs(carla_points_to_opencv(read("extent")))
    return VehicleBox(name, T_world_vehicle @ T_vehicle_box, half_size)
