"""Which pixels become points: far and thin things keep theirs, the road thins out."""

from __future__ import annotations

import numpy as np
import pytest
from support.analytic_panoramas import BOXES, ROAD_Y, batch

from coop3d.visualization import PointSet, scene_from_prediction
from coop3d.visualization.subsample import draw_pixels, thin_objects

ANGLE = 2 * np.pi / 1008  # between the pixels of a full panorama
POST = BOXES[6]  # 0.3 m wide, 20 m away


def on_post(cloud: PointSet) -> int:
    low, high = POST + [[-0.05], [0.05]] * np.ones(3)
    high[1] = ROAD_Y - 0.1
    return int(((cloud.points > low) & (cloud.points < high)).all(axis=-1).sum())


def on_near_road(cloud: PointSet) -> int:
    near = np.linalg.norm(cloud.points[:, [0, 2]], axis=-1) < 12
    return int((near & (np.abs(cloud.points[:, 1] - ROAD_Y) < 0.02)).sum())


@pytest.mark.parametrize(
    ("budget", "post_at_least", "road_at_most"),
    [(50_000, 0.95, 0.2), (20_000, 0.8, 0.07), (5_000, 0.3, 0.02)],
)
def test_a_pole_keeps_its_points_while_the_road_thins_out(budget, post_at_least, road_at_most):
    sample = batch(("641",), width=1008)

    def cloud(points: int) -> PointSet:
        return (
            scene_from_prediction(sample.inputs, sample.targets, None, sample.keys, max_points=points)
            .views[0]
            .truth
        )

    everything, thinned = cloud(10**7), cloud(budget)
    assert on_post(everything) > 100
    uniform = len(thinned.points) / len(everything.points)  # what each would keep of an even draw
    post = on_post(thinned) / on_post(everything)
    road = on_near_road(thinned) / on_near_road(everything)
    assert post > post_at_least > 2 * uniform
    assert road < road_at_most < uniform


def street(height: int = 64, width: int = 256) -> np.ndarray:
    """[H, W] range of a flat road below a wall 40 m away, as a panorama sees it."""
    down = (np.arange(height) + 0.5 - height / 2) * ANGLE * 4
    with np.errstate(divide="ignore"):
        road = np.where(down > 0, 1.9 / np.tan(down), np.inf)
    return np.minimum(road, 40.0)[:, None] * np.ones(width)


def test_roads_and_walls_are_not_thin():
    assert not thin_objects(street(), 4 * ANGLE).any()


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(slice(10, 60), slice(100, 102)), (slice(20, 22), slice(50, 150)), (slice(5, 50), [255, 0])],
    ids=["pole", "wire", "pole on the seam"],
)
def test_poles_and_wires_are_thin(rows, columns):
    range_m = street()
    thing = np.zeros(range_m.shape, bool)
    thing[rows, columns] = True
    range_m[thing] = 9.0
    expected = thing & (range_m < 0.8 * street())  # where its own road is as near, it does not stand out
    found = thin_objects(range_m, 4 * ANGLE)
    assert found[expected].all()
    assert not found[~thing].any()


def test_a_wide_thing_and_a_gap_between_two_things_are_not_thin():
    range_m = street()
    range_m[10:40, 60:120] = 9.0
    range_m[10:40, 90:92] = 40.0  # the background through a slit
    assert not thin_objects(range_m, 4 * ANGLE)[:, :88].any()
    assert not thin_objects(range_m, 4 * ANGLE)[10:40, 90:92].any()


def test_in_front_of_the_sky_and_beside_unknown_pixels():
    range_m = np.full((40, 100), np.nan)
    range_m[5:30, 40:42] = 15.0
    found = thin_objects(range_m, 4 * ANGLE)
    np.testing.assert_array_equal(found, np.isfinite(range_m))


def test_the_draw_follows_importance():
    importance = np.repeat([1.0, 4.0], 5000)
    rng = np.random.default_rng(0)
    chosen = draw_pixels(importance, rng.random(10_000), 1000)
    assert len(np.unique(chosen)) == 1000
    heavy = (chosen >= 5000).mean()
    assert heavy == pytest.approx(0.8, abs=0.04)  # 4 : 1, while few of either are drawn
    np.testing.assert_array_equal(draw_pixels(importance[:7], rng.random(7), 7), np.arange(7))
