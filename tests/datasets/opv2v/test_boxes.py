"""Boxes and reported poses against CARLA's own matrix, entry by entry, on slopes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import load_boxes, load_reported_pose

VEHICLE = {
    "location": [141.3, -388.6, 2.4],
    "angle": [3.0, 127.0, -8.0],  # roll, yaw, pitch: a slope, leaning
    "center": [0.4, -0.05, 0.75],
    "extent": [2.45, 1.06, 0.79],
    "speed": 20.0,
}


def to_world(location, angle, point):
    """CARLA's Transform.transform, written out: a point of an actor's frame in the world, left-handed axes."""
    roll, yaw, pitch = (math.radians(a) for a in angle)
    cr, sr, cy, sy, cp, sp = (f(a) for a in (roll, yaw, pitch) for f in (math.cos, math.sin))
    x, y, z = point
    return [
        location[0] + cp * cy * x + (cy * sp * sr - sy * cr) * y + (-cy * sp * cr - sy * sr) * z,
        location[1] + cp * sy * x + (sy * sp * sr + cy * cr) * y + (-sy * sp * cr + cy * sr) * z,
        location[2] + sp * x - cp * sr * y + cp * cr * z,
    ]


def to_opencv(point):
    return [point[1], -point[2], point[0]]


def write(path, **meta):
    path.write_text(yaml.dump(meta))
    return path


def test_every_corner_is_where_carla_has_it(tmp_path):
    box = load_boxes(write(tmp_path / "000069.yaml", vehicles={4805: VEHICLE}))["4805"]
    for forward in (-1, 1):
        for right in (-1, 1):
            for up in (-1, 1):
                signs = np.array([forward, right, up])
                in_vehicle = np.array(VEHICLE["center"]) + signs * VEHICLE["extent"]
                truth = to_opencv(to_world(VEHICLE["location"], VEHICLE["angle"], in_vehicle))
                in_box = np.array([right, -up, forward]) * box.half_size_m  # x right, y down, z forward
                found = box.T_world_box[:3, :3] @ in_box + box.T_world_box[:3, 3]
                np.testing.assert_allclose(found, truth, atol=1e-9)
    np.testing.assert_allclose(box.half_size_m, [1.06, 0.79, 2.45])
    assert np.linalg.det(box.T_world_box[:3, :3]) == pytest.approx(1)


def test_no_vehicles_no_boxes(tmp_path):
    assert load_boxes(write(tmp_path / "a.yaml", lidar_pose=[0] * 6)) == {}
    assert load_boxes(write(tmp_path / "b.yaml", vehicles={})) == {}


@pytest.mark.parametrize(
    ("vehicles", "message"),
    [
        ({7: {**VEHICLE, "extent": [1, 2]}}, r"b\.yaml: key 'vehicles.7.extent' is shape \(2,\)"),
        ({7: {k: v for k, v in VEHICLE.items() if k != "center"}}, "key 'vehicles.7.center' is missing"),
        ({7: {**VEHICLE, "angle": [0, float("nan"), 0]}}, "'vehicles.7.angle' contains NaN"),
        ([1, 2], "key 'vehicles' is a list"),
        ({7: "car"}, "key 'vehicles.7.center' is missing"),
    ],
)
def test_malformed_vehicles_name_file_and_key(tmp_path, vehicles, message):
    with pytest.raises(DataError, match=message):
        load_boxes(write(tmp_path / "b.yaml", vehicles=vehicles))


def test_a_reported_pose_moves_the_lidar_with_the_vehicle(tmp_path):
    """A LiDAR 1.9 m above the vehicle and 0.5 m behind its middle, wherever the vehicle believes itself to be."""
    mount, angle = [-0.5, 0.0, 1.9], [2.0, 40.0, -5.0]
    true, reported, wrong = [10.0, -4.0, 0.3], [10.4, -4.3, 0.35], [2.0, 43.0, -5.0]
    path = write(
        tmp_path / "000001.yaml",
        true_ego_pos=[*true, *angle],
        predicted_ego_pos=[*reported, *wrong],
        lidar_pose=[*to_world(true, angle, mount), *angle],
    )
    T = load_reported_pose(path)
    np.testing.assert_allclose(T[:3, 3], to_opencv(to_world(reported, wrong, mount)), atol=1e-9)
    ahead = np.array(to_world(reported, wrong, [1, 0, 0])) - reported
    np.testing.assert_allclose(T[:3, 2], to_opencv(ahead), atol=1e-9)
    with pytest.raises(DataError, match="'predicted_ego_pos' is missing"):
        load_reported_pose(write(tmp_path / "b.yaml", true_ego_pos=[0] * 6, lidar_pose=[0] * 6))
