"""Domains: the first one keeps every byte it had, the second is another world, as exact and as truthfully described."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from coop3d.datasets.synthetic import (
    DOMAIN_NAMES,
    GENERATOR_VERSION,
    Scenario,
    SyntheticConfig,
    build_scenario,
    make_synthetic_opv2v,
    sensors,
)
from coop3d.datasets.synthetic.content import planned_layout, written_layout
from coop3d.datasets.synthetic.domain import DOMAINS, OUTSKIRTS, TOWN
from coop3d.geometry.carla import carla_pose_to_matrix

CONFIG = SyntheticConfig(
    seed=11, image_size=(96, 72), scenarios={"train": 1}, frames=1, vehicles=(2, 2), lidar_points=256,
    distances="opv2v", domain="outskirts",
)  # fmt: skip
# Cameras and LiDAR of the outskirts: x, y, z, roll, yaw, pitch in the vehicle frame.
CAMERAS = [
    (1.1, 0.05, 2.55, 0.5, 1.0, -5.0), (0.2, 0.75, 2.6, 1.5, 93.0, -4.0), (0.2, -0.75, 2.6, -1.0, -92.0, -6.0),
    (-2.1, -0.05, 2.65, -0.5, 179.0, -3.0),
]  # fmt: skip
LIDAR = (-0.3, 0.0, 2.85, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("outskirts") / "opv2v"
    make_synthetic_opv2v(root, root.with_name("depth"), CONFIG, progress=False)
    return root


@pytest.fixture(scope="module")
def worlds() -> dict[str, list[Scenario]]:
    """Two places of each domain."""
    return {
        name: [build_scenario(102, "train", k, frames=1, vehicles=(2, 2), domain=name) for k in range(2)]
        for name in DOMAIN_NAMES
    }


def test_settings_name_a_domain_only_where_there_is_a_choice():
    assert "domain" not in SyntheticConfig().settings()
    assert CONFIG.settings()["domain"] == "outskirts"
    assert GENERATOR_VERSION == 1
    assert tuple(DOMAINS) == DOMAIN_NAMES
    assert all(domain.name == name for name, domain in DOMAINS.items())


def test_the_first_domain_keeps_what_it_draws():
    """Measured before there was a choice: one number drawn more, fewer or from another range moves all that follow."""
    scenario = build_scenario(5, "train", 0, frames=6, vehicles=(3, 3))
    mesh = scenario.town.mesh
    assert scenario.domain is TOWN
    assert len(mesh) == 186052
    assert mesh.triangles.sum() == pytest.approx(-292192946.9011509, rel=1e-9)
    assert mesh.tint.sum(dtype=float) == pytest.approx(210657.22727769, rel=1e-6)
    assert mesh.uv.sum() == pytest.approx(454001.796414568, rel=1e-9)
    assert scenario.light_numbers.sum() == pytest.approx(26.42077172852119, rel=1e-9)
    texels = scenario.town.atlas.texels.view(np.uint8).reshape(-1, 4)
    np.testing.assert_allclose(
        texels.mean(axis=0), [132.32343822, 129.67093275, 122.55675313, 42.74470755], rtol=1e-5
    )
    states = scenario.vehicles(0)
    assert [states[a].body.style for a in scenario.agents] == ["coupe", "suv", "sedan"]
    np.testing.assert_allclose(
        states[501].T_world_vehicle[:3, 3], [-248.0775442, -321.4465555, -0.0775222], atol=1e-6
    )


def test_the_second_is_calibrated_as_it_is_mounted(made):
    paths = sorted(made.glob("*/*/*/*.yaml"))
    assert len(paths) == 2
    f = 96 / 2 / np.tan(np.radians(55.0))
    for path in paths:
        record = yaml.safe_load(path.read_text())
        ego, lidar = (carla_pose_to_matrix(record[key]) for key in ("true_ego_pos", "lidar_pose"))
        np.testing.assert_allclose(np.linalg.inv(ego) @ lidar, carla_pose_to_matrix(LIDAR), atol=1e-9)
        for i, pose in enumerate(CAMERAS):
            camera = record[f"camera{i}"]
            T = carla_pose_to_matrix(camera["cords"])
            np.testing.assert_allclose(np.linalg.inv(ego) @ T, carla_pose_to_matrix(pose), atol=1e-9)
            np.testing.assert_allclose(camera["extrinsic"], np.linalg.inv(T) @ lidar, atol=1e-9)
            np.testing.assert_allclose(camera["intrinsic"], [[f, 0, 48], [0, f, 36], [0, 0, 1]])


def test_its_clouds_lie_on_its_depth_through_its_calibration(made):
    """The median of depth over range of the cloud's points: a wrong lens, tilt or height moves it by per cents."""
    for path in sorted(made.glob("*/*/*/*.yaml")):
        record = yaml.safe_load(path.read_text())
        text = path.with_suffix(".pcd").read_text().partition("DATA ascii\n")[2]
        cloud = np.array(text.split(), float).reshape(-1, 4)
        for i in range(4):
            E, K = np.array(record[f"camera{i}"]["extrinsic"]), np.array(record[f"camera{i}"]["intrinsic"])
            p = cloud[:, :3] @ E[:3, :3].T + E[:3, 3]
            p = p[(p[:, 0] > 1.0) & (p[:, 0] < 30.0)]
            u, v = K[0, 0] * p[:, 1] / p[:, 0] + K[0, 2], -K[1, 1] * p[:, 2] / p[:, 0] + K[1, 2]
            ok = (u > 0) & (u < 96) & (v > 0) & (v < 72)
            here = made.with_name("depth") / path.parent.relative_to(made)
            z = np.load(here / f"{path.stem}_camera{i}_depth.npy")
            ratio = z[v[ok].astype(int), u[ok].astype(int)] / p[ok, 0]
            assert len(ratio) > 100
            assert abs(np.median(ratio) - 1) < 0.01
            assert (np.abs(ratio - 1) < 0.15).mean() > 0.8


def test_its_layout_is_planned_without_a_town(made):
    assert written_layout(made) == planned_layout(CONFIG, "train", 0)
    town = planned_layout(replace(CONFIG, domain="town"), "train", 0)
    assert list(town) == list(written_layout(made))  # the domain decides no name and no number of vehicles
    assert town != written_layout(made)


def test_its_rig_looks_all_round_from_above_the_roof(worlds):
    """Every azimuth at the horizon lies in a picture; nothing of the vehicle is as high as a camera."""
    rig = OUTSKIRTS.rig
    K = rig.intrinsic((384, 288))
    azimuth = np.radians(np.arange(0, 360, 0.5))
    rays = np.stack([np.cos(azimuth), np.sin(azimuth), 0 * azimuth], axis=1)
    seen = np.zeros(len(rays), int)
    for i in range(4):
        local = rays @ rig.T_vehicle_camera(i)[:3, :3]
        ahead = local[:, 0] > 0.1
        u, v = (K[0, 0] * local[:, k] / np.where(ahead, local[:, 0], 1.0) * s for k, s in ((1, 1), (2, -1)))
        seen += ahead & (np.abs(u) < 192) & (np.abs(v) < 144)
    assert seen.min() >= 1
    assert (seen > 1).mean() > 0.1  # pictures overlap
    for scenario in worlds["outskirts"]:
        for agent in scenario.agents:
            body = scenario.vehicles(0)[agent].body
            assert body.style == "van"
            assert body.center[2] + body.extent[2] < min(pose[2] for pose in rig.cameras) - 0.2


def _pictures(scenario: Scenario) -> tuple[np.ndarray, np.ndarray]:
    """[N, 3] pixels (BGR, 0 to 255) of the first vehicle's cameras, and their depth [N] in metres, 0: sky."""
    agent, instant = scenario.agents[0], scenario.instant(0)
    T = scenario.vehicles(0)[agent].T_world_vehicle
    shots = [
        sensors.render_camera(instant, T @ scenario.domain.rig.T_vehicle_camera(i), (192, 144), agent)
        for i in range(4)
    ]
    return np.concatenate([b.reshape(-1, 3) for b, _ in shots]).astype(float), np.concatenate(
        [z.ravel() for _, z in shots]
    )


def test_places_look_different(worlds):
    """Haze takes contrast from far surfaces, walls are low, and nothing is black, white or empty."""
    far_contrast, built = {}, {}
    for name, scenarios in worlds.items():
        spreads, heights = [], []
        for scenario in scenarios:
            bgr, z = _pictures(scenario)
            grey = bgr.mean(axis=1)
            assert 0.4 < (z > 0).mean() < 0.9
            assert 60 < grey.mean() < 190
            assert grey.std() > 15
            assert ((grey < 3) | (grey > 252)).mean() < 0.1
            spreads.append(grey[(z > 80)].std() / grey[(z > 0) & (z < 30)].std())
            walls = scenario.town.mesh.triangles[scenario.town.mesh.kind == 4]  # facades
            heights.append(np.ptp(walls[..., 2], axis=1).mean())
        far_contrast[name], built[name] = np.mean(spreads), np.mean(heights)
    assert far_contrast["outskirts"] < 0.8 * far_contrast["town"]
    assert built["outskirts"] < 0.8 * built["town"]


def test_another_domain_is_written_into_another_folder(made):
    town = replace(CONFIG, domain="town")
    with pytest.raises(ValueError, match="domain: found 'outskirts', now None"):
        make_synthetic_opv2v(made, made.with_name("depth"), town, progress=False)
