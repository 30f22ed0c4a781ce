"""How far apart connected vehicles are: OPV2V's table, and what the generator makes of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.synthetic_places import connected_places

from coop3d.datasets.synthetic import SyntheticConfig, build_scenario
from coop3d.datasets.synthetic.scenario import plan_scenario
from coop3d.datasets.synthetic.spacing import (
    NEAREST_PAIR_M,
    NEAREST_PAIR_SHARE,
    distance_at,
    even_draw,
    nearest_pair_m,
    wanted_distances,
)

# OPV2V's test split: frames whose nearest pair lies in [0, 15), [15, 30), [30, 60), [60, 100) and beyond.
OPV2V_COUNTS = np.array([651, 873, 517, 39, 90])
EDGES_M = [0, 15, 30, 60, 100, np.inf]
DEFAULT_PLACES = [
    [101.854, -140.5818, 5.7766],
    [109.1028, -144.0244, 5.7498],
]  # written before distances could be chosen


def test_the_default_keeps_the_settings_of_existing_data():
    """Byte for byte what a folder made before there was a choice has in its manifest."""
    config = SyntheticConfig(
        image_size=(384, 288), scenarios={"train": 64, "test": 12}, frames=2, vehicles=(2, 3)
    )
    assert json.dumps(config.settings()) == (
        '{"generator_version": 1, "seed": 0, "image_size": [384, 288], "scenarios": {"train": 64, "test": 12}, '
        '"frames": 2, "vehicles": [2, 3], "lidar_points": 1000, "exposure_spread": 0.08}'
    )
    assert SyntheticConfig(distances="opv2v").settings()["distances"] == "opv2v"
    with pytest.raises(ValueError, match="distances is 'far', expected one of"):
        SyntheticConfig(distances="far")


def test_the_default_keeps_places_of_existing_data():
    """Two vehicles of the first town of seed 0, as they stood before there was a choice."""
    places = connected_places(0, "train", 0, frames=2, vehicles=(2, 3))
    np.testing.assert_allclose(places[0, :2], DEFAULT_PLACES, atol=1e-3)


def test_the_table_has_opv2vs_counts_and_moments():
    share = (np.arange(100000) + 0.5) / 100000
    metres = distance_at(share)
    counts = np.histogram(metres, EDGES_M)[0] / 100000 * OPV2V_COUNTS.sum()
    np.testing.assert_allclose(counts, OPV2V_COUNTS, atol=0.1)
    assert np.median(metres) == pytest.approx(19.5, abs=0.01)
    assert np.percentile(metres, 95) == pytest.approx(80.5, abs=0.2)
    assert metres.mean() == pytest.approx(28.6, abs=0.3)
    assert metres.max() <= 166
    assert (np.diff(NEAREST_PAIR_M) > 0).all()
    assert (np.diff(NEAREST_PAIR_SHARE) > 0).all()


def test_draws_are_even_over_scenarios():
    """Share of points below x against x: independent draws of 400 are off by 0.042 on average."""
    for start in np.random.default_rng(0).uniform(size=(20, 2)):
        points = np.sort([even_draw(start, k) for k in range(400)], axis=0)  # [400, 2]
        below = np.arange(400)[:, None] / 400
        assert max((points - below).max(), (below + 1 / 400 - points).max()) < 0.015


def test_further_vehicles_stay_within_reach_where_the_nearest_pair_does():
    rng = np.random.default_rng(0)
    for share in np.linspace(0, 0.999, 50):
        nearest, *further = wanted_distances(rng, share, 5)
        assert nearest == pytest.approx(float(distance_at(share)))
        assert min(further) >= nearest - 1e-9
        assert max(further) <= max(60.0, 1.2 * nearest) + 1e-9
    assert wanted_distances(rng, 0.5, 1) == []


def test_nearest_pair_of_known_places():
    places = np.array([[[0, 0, 0], [3, 4, 0], [3, 4, 2]], [[0, 0, 0], [30, 40, 0], [0, 0, 90]]], float)
    np.testing.assert_allclose(nearest_pair_m(places), [2.0, 50.0])


@pytest.fixture(scope="module")
def places() -> list[np.ndarray]:
    return [connected_places(3, "train", k, frames=2, vehicles=(2, 5), distances="opv2v") for k in range(60)]


def test_scenarios_follow_the_table(places):
    """60 towns: a tenth of a share is what the evenness and the queues before red lights leave."""
    metres = np.concatenate([nearest_pair_m(p) for p in places])
    shares = np.histogram(metres, EDGES_M)[0] / len(metres)
    np.testing.assert_allclose(shares, OPV2V_COUNTS / OPV2V_COUNTS.sum(), atol=0.07)
    assert np.median(metres) == pytest.approx(19.5, abs=2.0)
    wanted = np.array([plan_scenario(3, "train", k, (2, 5), "opv2v").wanted_m[0] for k in range(60)])
    error = np.abs(nearest_pair_m(np.stack([p[1, :2] for p in places if p.shape[1] == 2]))
                   - wanted[[p.shape[1] == 2 for p in places]])  # fmt: skip
    assert np.median(error) < 0.5
    assert error.max() < 4.0


def test_numbers_of_vehicles_follow_opv2vs_shares(places):
    plans = [plan_scenario(3, "train", k, (2, 5), "opv2v") for k in range(400)]
    assert [p.shape[1] for p in places] == [plan.n for plan in plans[:60]]
    shares = np.bincount([plan.n for plan in plans], minlength=6)[2:] / 400
    np.testing.assert_allclose(shares, np.array([33, 22, 6, 4]) / 65, atol=0.02)


def test_a_scenario_stands_where_its_plan_says():
    """The plan answers without a town what the built scenario then is."""
    scenario = build_scenario(3, "train", 0, frames=2, vehicles=(2, 5), distances="opv2v")
    plan = plan_scenario(3, "train", 0, (2, 5), "opv2v")
    assert scenario.agents == plan.agents
    assert scenario.ticks == [plan.tick(0), plan.tick(1)]
    built = np.stack(
        [[scenario.vehicles(f)[a].T_world_vehicle[:3, 3] for a in plan.agents] for f in range(2)]
    )
    np.testing.assert_array_equal(
        built, connected_places(3, "train", 0, frames=2, vehicles=(2, 5), distances="opv2v")
    )


def test_places_depend_on_the_town_not_on_how_many_there_are():
    alone = connected_places(3, "test", 5, frames=1, vehicles=(2, 3), distances="opv2v")
    np.testing.assert_array_equal(
        alone, connected_places(3, "test", 5, frames=1, vehicles=(2, 3), distances="opv2v")
    )
    other = connected_places(4, "test", 5, frames=1, vehicles=(2, 3), distances="opv2v")
    assert alone.shape != other.shape or np.abs(alone - other).max() > 1.0
