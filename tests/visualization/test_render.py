"""Off-screen renders: points where projection says, the nearest in front, up is up."""

from __future__ import annotations

import numpy as np
import pytest
from support.analytic_panoramas import BOX_RGB, batch, prediction

from coop3d.visualization import (
    OrientedBox,
    PointSet,
    Scene,
    SceneView,
    look_at,
    preset,
    render_scene,
    scene_from_prediction,
)
from coop3d.visualization.colour import vehicle_rgb
from coop3d.visualization.figures import BACKGROUND

RED, GREEN = (250, 0, 0), (0, 250, 0)


def scene_of(points: list[list[float]], colours: list[tuple[int, int, int]]) -> Scene:
    n = len(points)
    cloud = PointSet(
        points=np.array(points, np.float32).reshape(n, 3),
        rgb=np.array(colours, np.uint8).reshape(n, 3),
        range_m=np.full(n, 5.0, np.float32),
        kept=np.ones(n, bool),
    )
    return Scene(title="points", views=(SceneView(name="a", predicted=cloud),))


def test_a_point_appears_where_it_projects():
    # 90 degrees wide, 200 pixels: f = 100; a point 1 m right and 0.5 m up at 4 m is 25 px right, 12.5 px up.
    view = look_at(np.zeros(3), np.array([0.0, 0.0, 1.0]), size=(200, 120), hfov_deg=90.0)
    image = render_scene(scene_of([[1.0, -0.5, 4.0]], [RED]), view)
    rows, columns = np.nonzero((image == RED).all(axis=-1))
    assert columns.mean() == pytest.approx(125, abs=1)
    assert rows.mean() == pytest.approx(60 - 12.5, abs=1)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_nearest_point_wins(order):
    points, colours = np.array([[0.0, 0, 4], [0.0, 0, 8]]), np.array([RED, GREEN])
    view = look_at(np.zeros(3), np.array([0.0, 0.0, 1.0]), size=(101, 101))
    image = render_scene(scene_of(points[order].tolist(), [tuple(c) for c in colours[order].tolist()]), view)
    np.testing.assert_array_equal(image[50, 50], RED)


def test_from_above_forward_is_up_and_right_is_right():
    scene = scene_of([[0, 0, 0], [0, 0, 9], [9, 0, 0]], [(9, 9, 9), RED, GREEN])
    view = look_at(np.array([0.0, -20.0, 0.0]), np.zeros(3), size=(201, 201))
    image = render_scene(scene, view)
    red, green = (np.argwhere((image == c).all(axis=-1)).mean(axis=0) for c in (RED, GREEN))
    assert red[0] < 60 < 90 < red[1] < 110
    assert 90 < green[0] < 110 < 140 < green[1]


@pytest.mark.parametrize("name", ["oblique", "top"])
def test_presets_show_the_street(name):
    sample = batch(width=504)
    scene = scene_from_prediction(sample.inputs, sample.targets, prediction(sample, 0.0, 0.0), sample.keys)
    image = render_scene(scene, preset(scene, name, (640, 360)), "truth")
    assert image.shape == (360, 640, 3)
    assert (image != BACKGROUND).any(axis=-1).mean() > 0.25
    red_car = BOX_RGB[4] / BOX_RGB[4].sum()
    share = image / np.maximum(image.sum(axis=-1, keepdims=True), 1)
    assert (np.abs(share - red_car).max(axis=-1) < 0.04).sum() > 15


def test_nothing_to_show_is_an_empty_grid():
    scene = Scene(title="nothing", views=(SceneView(name="a"),))
    image = render_scene(scene, preset(scene, "oblique", (320, 180)), colour="vehicle")
    assert (image == BACKGROUND).all(axis=-1).mean() > 0.8


def wall(z: float, half: float = 3.0) -> PointSet:
    """A dense wall that faces the eye at the origin."""
    x, y = np.meshgrid(np.linspace(-half, half, 200), np.linspace(-half, half, 200))
    points = np.stack([x, y, np.full_like(x, z)], axis=-1).reshape(-1, 3).astype(np.float32)
    n = len(points)
    return PointSet(points=points, rgb=np.full((n, 3), 250, np.uint8), range_m=np.full(n, z, np.float32),
                    kept=np.ones(n, bool))  # fmt: skip


def box_at(z: float) -> OrientedBox:
    T = np.eye(4)
    T[2, 3] = z
    return OrientedBox(name="car", T_ref_box=T, half_extent_m=np.array([1.0, 1.0, 1.0]))


@pytest.mark.parametrize(("box_z", "visible"), [(5.0, True), (14.0, False)])
def test_boxes_are_solid_before_a_wall_and_dotted_behind_it(box_z, visible):
    view = look_at(np.zeros(3), np.array([0.0, 0.0, 1.0]), size=(301, 301), hfov_deg=60.0)
    dark = {}
    for name, boxes in (("with", (box_at(box_z),)), ("without", ())):
        scene = Scene(title="box", views=(SceneView(name="a", predicted=wall(9.0)),), boxes=boxes)
        dark[name] = render_scene(scene, view).astype(int)
    changed = np.abs(dark["with"] - dark["without"]).max(axis=-1) > 0
    # The box's front is a square of 2 m at box_z - 1: with f = 301 / 2 / tan 30 its sides lie here.
    f, front = 301 / 2 / np.tan(np.radians(30)), box_z - 1
    column = int(150.5 + f * 1.0 / front)
    rows = np.arange(int(150.5 - 0.8 * f / front), int(150.5 + 0.8 * f / front))
    side = changed[rows, column - 1 : column + 2].any(axis=1)
    if visible:
        assert side.mean() > 0.95
        assert dark["with"][rows, column - 1 : column + 2].min() < 130  # in its own dark colour
    else:
        assert 0.1 < side.mean() < 0.7  # dotted
        assert dark["with"][changed].min() >= 100  # and paler


def test_a_vehicle_behind_the_eye_draws_nothing():
    view = look_at(np.zeros(3), np.array([0.0, 0.0, 1.0]), size=(101, 101))
    T = np.eye(4)
    T[2, 3] = -30.0
    near = np.eye(4)  # the eye is inside this car: some edges lie before it, some behind
    for pose in (T, near):
        scene = Scene(title="behind", views=(SceneView(name="a", T_ref_view_pred=pose),))
        image = render_scene(scene, view)
        blue = (np.abs(image.astype(int) - vehicle_rgb(0)).max(axis=-1) < 40).sum()
        assert (blue == 0) == (pose is T)
