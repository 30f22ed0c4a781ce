"""The synthetic world itself: exact depth, LiDAR, poses, traffic. Axes are UE: x forward, y right, z up."""

from __future__ import annotations

import numpy as np
import pytest

from coop3d.datasets.synthetic import DOMAIN_NAMES, Scenario, SyntheticConfig, build_scenario
from coop3d.datasets.synthetic import sensors as rig
from coop3d.datasets.synthetic.layout import make_layout
from coop3d.datasets.synthetic.rig import OPV2V_RIG, ROOF_RIG
from coop3d.datasets.synthetic.town import TownPlan
from coop3d.datasets.synthetic.traffic import drive_poses, make_traffic
from coop3d.geometry.carla import carla_pose_to_matrix, matrix_to_carla_pose

SIZE = (160, 120)


@pytest.fixture(scope="module", params=DOMAIN_NAMES)
def scenario(request) -> Scenario:
    return build_scenario(5, "train", 0, frames=6, vehicles=(3, 3), domain=request.param)


@pytest.fixture(scope="module")
def elsewhere(scenario) -> list[Scenario]:
    """Other towns of the same seed."""
    return [
        build_scenario(5, split, index, frames=1, vehicles=(3, 3), domain=scenario.domain.name)
        for split, index in (("validate", 0), ("train", 1))
    ]


def _pixel_rays(T_world_camera: np.ndarray, size: tuple[int, int], scenario: Scenario) -> np.ndarray:
    """[H, W, 3] world directions whose component along the optical axis is 1, through pixel centres."""
    w, h = size
    f = w / 2 / np.tan(np.radians({"town": 50.0, "outskirts": 55.0}[scenario.domain.name]))
    u, v = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    local = np.stack([np.ones_like(u), (u - w / 2) / f, -(v - h / 2) / f], axis=-1)
    return local @ T_world_camera[:3, :3].T


class _BruteForce:
    """Nearest hit by solving o + t d = a + v e1 + w e2 for every triangle, float64, nothing clever."""

    def __init__(self, triangles: np.ndarray):
        self.a, self.e1, self.e2 = (
            triangles[:, 0],
            triangles[:, 1] - triangles[:, 0],
            triangles[:, 2] - triangles[:, 0],
        )
        self.n = np.cross(self.e1, self.e2)
        area2 = (self.n**2).sum(1)
        self.to_v = np.cross(self.e2, self.n) / area2[:, None]  # dual basis: v = to_v . (p - a)
        self.to_w = np.cross(self.n, self.e1) / area2[:, None]

    def __call__(self, origin: np.ndarray, direction: np.ndarray) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.einsum("ij,ij->i", self.a - origin, self.n) / (self.n @ direction)
        near = np.flatnonzero(t > 0)
        p = origin + t[near, None] * direction - self.a[near]
        v, w = np.einsum("ij,ij->i", self.to_v[near], p), np.einsum("ij,ij->i", self.to_w[near], p)
        return float(t[near][(v >= 0) & (w >= 0) & (v + w <= 1)].min(initial=np.inf))


def test_depth_matches_brute_force(scenario):
    """Random pixels of all cameras of a vehicle against every triangle of the town, slopes included."""
    instant = scenario.instant(2)
    agent = scenario.agents[0]
    nearest = _BruteForce(instant.triangles()[instant.owner != agent])
    rng = np.random.default_rng(0)
    checked = 0
    for camera in range(4):
        T = instant.vehicles[agent].T_world_vehicle @ scenario.domain.rig.T_vehicle_camera(camera)
        z, hit = rig.render_depth(instant, T, SIZE, agent)
        rays = _pixel_rays(T, SIZE, scenario)
        for i, j in zip(rng.integers(0, SIZE[1], 12), rng.integers(0, SIZE[0], 12), strict=True):
            expected = nearest(T[:3, 3], rays[i, j])
            assert np.isinf(expected) == (hit[i, j] < 0)
            if np.isfinite(expected):
                assert abs(z[i, j] - expected) < 1e-6 * max(1.0, expected)  # float64 round-off
                checked += 1
    assert checked > 25


def test_depth_matches_trace_everywhere(scenario):
    """The packet renderer and the single-ray tracer are separate code; whole images must agree."""
    instant = scenario.instant(1)
    agent = scenario.agents[0]
    for camera in range(4):
        T = instant.vehicles[agent].T_world_vehicle @ scenario.domain.rig.T_vehicle_camera(camera)
        z, hit = rig.render_depth(instant, T, SIZE, agent)
        answer = scenario.trace(
            T[:3, 3], _pixel_rays(T, SIZE, scenario).reshape(-1, 3), frame=1, exclude=agent
        )
        same = np.isclose(answer.t.reshape(z.shape), z, atol=1e-6, rtol=1e-9)
        # A ray through the very edge of a triangle may fall on either side of it.
        assert (~same).mean() < 1e-3
        assert 0.02 < (hit < 0).mean() < 0.7  # some sky, not all sky


def test_own_body_is_invisible_and_others_see_it(scenario):
    instant = scenario.instant(0)
    agent = scenario.agents[0]
    box = instant.vehicles[agent]
    above = box.T_world_vehicle @ np.array([0.0, 0.0, 10.0, 1.0])
    down = -box.T_world_vehicle[:3, 2][None]
    seen = scenario.trace(above[:3], down)
    assert seen.owner[0] == agent
    assert 10.0 - 2 * box.body.extent[2] - 0.02 < seen.t[0] < 10.0 - 0.5  # the roof
    unseen = scenario.trace(above[:3], down, exclude=agent)
    assert unseen.owner[0] != agent
    assert abs(unseen.t[0] - 10.0) < 0.3
    T = box.T_world_vehicle @ scenario.domain.rig.T_vehicle_lidar()
    _, _, owner = rig.scan_lidar(instant, T, 256, agent, np.random.default_rng(0))
    assert agent not in owner


def test_body_boxes_bound_the_meshes(scenario):
    for v in scenario.vehicles(0).values():
        corners = v.body.mesh.triangles.reshape(-1, 3) - v.body.center
        np.testing.assert_allclose(np.abs(corners).max(axis=0), v.body.extent, atol=1e-12)
        np.testing.assert_allclose(
            v.body.center[2], v.body.extent[2], atol=0.02
        )  # wheels stand on the ground


def test_lidar_points_lie_on_surfaces(scenario):
    """Re-tracing each shot finds the surface within five standard deviations of the range noise."""
    instant = scenario.instant(3)
    agent = scenario.agents[1]
    T = instant.vehicles[agent].T_world_vehicle @ scenario.domain.rig.T_vehicle_lidar()
    points, intensity, owner = rig.scan_lidar(instant, T, 200, agent, np.random.default_rng(1))
    assert len(points) == len(intensity) == len(owner) > 5000
    ranges = np.linalg.norm(points, axis=1)
    answer = scenario.trace(T[:3, 3], (points / ranges[:, None]) @ T[:3, :3].T, frame=3, exclude=agent)
    error = ranges - answer.t
    close = np.abs(error) < 5 * rig.LIDAR_NOISE_M
    assert close.mean() > 0.999  # rounding can push a shot past an edge
    assert 0.9 < error[close].std() / rig.LIDAR_NOISE_M < 1.1
    assert ranges.max() < rig.LIDAR_RANGE_M + 0.2
    elevation = np.degrees(np.arcsin(points[:, 2] / ranges))
    assert elevation.min() > -25.01
    assert elevation.max() < 5.01


def test_two_vehicles_see_the_same_world(scenario):
    """Points lifted from one vehicle's depth and seen by another lie where that one's depth says."""
    instant = scenario.instant(2)
    a, b = scenario.agents[:2]
    compared = 0
    for cam_a in range(4):
        T_a = instant.vehicles[a].T_world_vehicle @ scenario.domain.rig.T_vehicle_camera(cam_a)
        z_a, _ = rig.render_depth(instant, T_a, SIZE, a)
        world = T_a[:3, 3] + (z_a[..., None] * _pixel_rays(T_a, SIZE, scenario))[np.isfinite(z_a)]
        for cam_b in range(4):
            T_b = instant.vehicles[b].T_world_vehicle @ scenario.domain.rig.T_vehicle_camera(cam_b)
            local = (world - T_b[:3, 3]) @ T_b[:3, :3]
            local = local[
                (local[:, 0] > 1.0)
                & (np.abs(local[:, 1]) < local[:, 0])
                & (np.abs(local[:, 2]) < 0.8 * local[:, 0])
            ]
            if len(local) == 0:
                continue
            towards = local / local[:, :1] @ T_b[:3, :3].T
            first = scenario.trace(T_b[:3, 3], towards, frame=2, exclude=b).t
            assert (
                first <= local[:, 0] * (1 + 1e-6) + 1e-3
            ).mean() > 0.98  # nothing is seen through (own bodies aside)
            compared += int((np.abs(first - local[:, 0]) < 1e-3).sum())
    assert compared > 300  # they share a view


@pytest.mark.parametrize("mounted", [OPV2V_RIG, ROOF_RIG], ids=["opv2v", "roof"])
def test_left_and_right_cameras(mounted):
    """A point to the right of the vehicle (+y) projects into camera1, one to the left into camera2."""
    for camera, side in ((1, 1.0), (2, -1.0)):
        local = np.linalg.inv(mounted.T_vehicle_camera(camera)) @ np.array([0.0, 10.0 * side, 1.0, 1.0])
        assert local[0] > 9.0
        assert abs(local[1] / local[0]) < np.tan(np.radians(50))


def test_opv2v_s_rig():
    # 100 degrees of yaw: the back is nearer to the side cameras' axes than the front.
    assert rig.T_vehicle_camera(1)[0, 0] == pytest.approx(np.cos(np.radians(100)))
    np.testing.assert_allclose(
        rig.intrinsic((800, 600)), [[335.639852470912, 0, 400], [0, 335.639852470912, 300], [0, 0, 1]]
    )


def test_roads_slope_and_cars_follow(scenario, elsewhere):
    """Roll and pitch come from the terrain: each wheel's contact lies on the road."""
    tilts = []
    for s in (scenario, *elsewhere):
        for agent in s.agents:
            T = s.vehicles(0)[agent].T_world_vehicle
            tilts.append(matrix_to_carla_pose(T)[[3, 5]])
            np.testing.assert_allclose(carla_pose_to_matrix(matrix_to_carla_pose(T)), T, atol=1e-9)
            wheels = T[:3, 3] + np.array([[1.4, 0.8], [1.4, -0.8], [-1.4, 0.8], [-1.4, -0.8]]) @ T[:3, :2].T
            up = np.array([0.0, 0.0, 1.0])
            gap = s.trace(wheels + 0.6 * up, np.repeat(-up[None], 4, 0), exclude=agent).t - 0.6
            assert np.abs(gap).max() < 0.15  # facets of the terrain, suspension
    tilts = np.abs(tilts)
    assert (tilts.max(axis=0) > 0.5).all()
    assert (tilts.max(axis=0) < 15).all()


def test_traffic_moves_as_it_says_and_does_not_collide(scenario):
    moved = 0.0
    for frame in range(scenario.frames - 1):
        before, after = scenario.vehicles(frame), scenario.vehicles(frame + 1)
        for i in before:
            step = np.linalg.norm(after[i].T_world_vehicle[:3, 3] - before[i].T_world_vehicle[:3, 3])
            mean_kmh = 0.5 * (before[i].speed_kmh + after[i].speed_kmh)
            assert step / 0.1 * 3.6 == pytest.approx(
                mean_kmh, abs=2.5
            )  # lanes bend; plan and world lengths differ
            moved = max(moved, step)
        for agent in scenario.agents:
            for i, v in before.items():
                if i != agent:
                    rel = np.linalg.inv(before[agent].T_world_vehicle) @ v.T_world_vehicle[:, 3]
                    reach = before[agent].body.extent + v.body.extent
                    assert abs(rel[0]) > reach[0] * 0.9 or abs(rel[1]) > reach[1] * 0.9, (
                        f"{agent} overlaps {i}"
                    )
    assert moved > 0.3


def test_connected_vehicles_are_near_each_other():
    nearest = []
    for seed in range(12):
        layout = make_layout(np.random.default_rng(seed))
        plan = TownPlan(layout, seed % 2)
        drivers, agents = make_traffic(np.random.default_rng(seed), plan, 3, 10)
        xy = np.array([drive_poses(layout, d)[5, :2, 3] for d in drivers if d.id in agents])
        gap = np.linalg.norm(xy[:, None] - xy, axis=2) + 1e9 * np.eye(len(xy))
        nearest += gap.min(axis=1).tolist()
    assert 10.0 < np.median(nearest) < 32.0
    assert min(nearest) > 3.0
    assert max(nearest) < 90.0


def test_towns_differ_and_scenarios_repeat(scenario, elsewhere):
    again = build_scenario(5, "train", 0, frames=6, vehicles=(3, 3), domain=scenario.domain.name)
    np.testing.assert_array_equal(again.static.triangles, scenario.static.triangles)
    np.testing.assert_array_equal(again.town.atlas.texels, scenario.town.atlas.texels)
    for other in elsewhere:
        assert len(other.static.triangles) != len(scenario.static.triangles)
        assert other.town.layout.axes != scenario.town.layout.axes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": (801, 600)}, "multiples of 8"),
        ({"scenarios": {"training": 1}}, "unknown splits"),
        ({"scenarios": {}}, "at least one"),
        ({"vehicles": (3, 8)}, "most <= 7"),
        ({"frames": 0}, "1 to 300"),
        ({"lidar_points": 100}, "multiple of 8"),
        ({"workers": 0}, "at least 1"),
        ({"domain": "village"}, "domain is 'village', expected one of"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**change)
