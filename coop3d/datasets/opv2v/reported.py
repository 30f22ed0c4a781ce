"""The pose that a vehicle itself reports: its own localisation's answer, not the simulator's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.opv2v.yaml_io import load_yaml, number_array
from coop3d.geometry.carla import pose_to_opencv
from coop3d.geometry.transforms import invert_rigid


def load_reported_pose(path: Path) -> NDArray[np.float64]:
    """[4, 4] ``T_world_rig`` in OpenCV axes as the vehicle believes it to be.

    ``predicted_ego_pos`` says where the vehicle believes itself; the LiDAR is mounted on it as ``lidar_pose`` and
    ``true_ego_pos`` show.

    Raises:
        DataError: a key is missing or malformed.
    """
    keys = ("predicted_ego_pos", "true_ego_pos", "lidar_pose")
    meta = load_yaml(path, keys=set(keys))
    T_reported, T_true, T_world_rig = (pose_to_opencv(number_array(path, meta, k, (6,))) for k in keys)
    return T_reported @ np.asarray(invert_rigid(T_true)) @ T_world_rig
