"""The pages in headless Chromium: no error, no request, and every control does what it says."""

from __future__ import annotations

import numpy as np
import pytest
from support.analytic_panoramas import POSES, batch, panorama, prediction
from support.browser import CHROMEDRIVER, CHROMIUM, MISSING
from support.page_actions import IDLE, click, look, picture, points_drawn, project, set_value, show

from coop3d.visualization import (
    PointSet,
    Scene,
    SceneView,
    scene_from_prediction,
    write_panorama_html,
    write_scene_html,
)

pytestmark = pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason=MISSING)

WINDOW = (1500, 900)


@pytest.fixture(scope="module")
def scene() -> Scene:
    sample = batch(("641", "<b>650</b>"))
    return scene_from_prediction(sample.inputs, sample.targets, prediction(sample), sample.keys)


def test_scene_page_makes_no_request_and_no_error(browser, tmp_path, scene):
    page = write_scene_html(tmp_path / "scene.html", scene)
    show(browser, page)
    browser.wait(
        "[...document.querySelectorAll('figure img')].every(i => i.complete && i.naturalWidth === 252)"
    )
    assert browser.console() == []
    assert browser.requests() == [page.resolve().as_uri()]


def test_toggles_add_and_remove_the_points_they_name(browser, tmp_path, scene):
    show(browser, write_scene_html(tmp_path / "scene.html", scene))
    first, second = scene.views
    kept = [int(v.predicted.kept.sum()) for v in scene.views]
    assert points_drawn(browser) == sum(kept)
    click(browser, "truth")
    assert points_drawn(browser) == sum(kept) + len(first.truth.points) + len(second.truth.points)
    click(browser, "predicted")
    click(browser, "vehicle0")
    assert points_drawn(browser) == len(second.truth.points)
    click(browser, "predicted")
    click(browser, "truth")
    click(browser, "masked")
    assert points_drawn(browser) == len(second.predicted.points) > kept[1]
    assert browser.console() == []


def test_every_colour_and_slider_changes_the_picture(browser, tmp_path, scene):
    show(browser, write_scene_html(tmp_path / "scene.html", scene))
    before = picture(browser, tmp_path)
    for colour in ("vehicle", "kind", "range", "confidence", "error", "height"):
        set_value(browser, "colour", colour)
        after = picture(browser, tmp_path)
        assert (np.abs(after - before).sum(axis=-1) > 60).mean() > 0.05, colour
        bar = browser.run("return document.getElementById('bar')?.textContent || ''")
        units = {"range": "1 m", "error": "0.05 m", "height": "0 m", "confidence": "1 "}
        assert bar.startswith(units.get(colour, "")), colour
        assert bool(bar) == (colour in units), colour
        before = after
    for slider, value in (("range", 100), ("range", 255), ("confidence", 200), ("size", 4)):
        set_value(browser, slider, value)
        after = picture(browser, tmp_path)
        assert (after != before).any(axis=-1).mean() > 0.01, slider
        before = after
    for toggle in ("shaded", "frames", "grid"):
        click(browser, toggle)
        after = picture(browser, tmp_path)
        assert (after != before).any(), toggle
        before = after
    assert browser.console() == []


def test_points_appear_where_they_should(browser, tmp_path):
    spots = {
        (250, 0, 0): [0, 0, 20],
        (0, 250, 0): [20, 0, 0],
        (0, 0, 250): [0, -15, 0],
    }  # ahead, right, above
    cloud = PointSet(
        points=np.repeat(np.array(list(spots.values()), np.float32), 50, axis=0),
        rgb=np.repeat(np.array(list(spots), np.uint8), 50, axis=0),
        range_m=np.full(150, 20.0, np.float32),
        kept=np.ones(150, bool),
        pixel_angle_rad=0.1,
    )
    view = SceneView(name="a", predicted=cloud, T_ref_view_pred=np.eye(4))
    show(browser, write_scene_html(tmp_path / "spots.html", Scene(title="spots", views=(view,))))
    for control in ("frames", "grid"):
        click(browser, control)

    def centres() -> list[np.ndarray]:
        image = picture(browser, tmp_path)
        offsets = [
            np.argwhere(np.abs(image - c).max(axis=-1) < 12) - np.array(image.shape[:2]) / 2 for c in spots
        ]
        return [o.mean(axis=0) for o in offsets]  # (down, right) of the middle

    for name in ("Oblique", "Top", "Side"):
        look(browser, name)
        expected = project(browser, np.array([[0, 20, 0], [20, 0, 0], [0, 0, 15]]))
        if name == "Top":  # the third lies behind the eye or on the first's line of sight
            expected = expected[:2]
        size = browser.run("return [viewer.canvas.clientHeight, viewer.canvas.clientWidth]")
        found = np.array([c + np.array(size) / 2 for c in centres()[: len(expected)]])[:, ::-1]
        np.testing.assert_allclose(found + 0.5, expected, atol=1.0, err_msg=name)  # pixels
    look(browser, "Top")
    ahead, right, _ = centres()
    assert ahead[0] < -40
    assert abs(ahead[1]) < 3
    assert right[1] > 40
    assert abs(right[0]) < 3
    look(browser, "Side")  # from the right: ahead is to the right, up is up
    ahead, _, above = centres()
    assert abs(ahead[1]) > 40
    assert above[0] < ahead[0] - 40


def test_camera_matrices_agree_with_numpy(browser, tmp_path):
    show(browser, write_scene_html(tmp_path / "empty.html", Scene(title="empty", views=())))

    def matrix(expression: str) -> np.ndarray:
        return np.array(browser.run(f"return {expression}"), float).reshape(4, 4).T  # columns first

    camera = matrix("mat4.lookAt([3, -4, 5], [1, 2, 0], [0, 0, 1])")
    np.testing.assert_allclose(camera[:3, :3].T @ camera[:3, :3], np.eye(3), atol=1e-12)
    assert np.linalg.det(camera) == pytest.approx(1)
    np.testing.assert_allclose(camera[:3, 3], [3, -4, 5])
    np.testing.assert_allclose(camera[:3, 2], np.array([2, -6, 5]) / np.sqrt(65))  # looks along -z
    assert camera[2, 0] == pytest.approx(0)  # the horizon is level
    assert camera[2, 1] > 0
    inverse = matrix("mat4.inverseRigid(mat4.lookAt([3, -4, 5], [1, 2, 0], [0, 0, 1]))")
    np.testing.assert_allclose(inverse, np.linalg.inv(camera), atol=1e-12)

    projection = matrix("mat4.perspective(Math.PI / 2, 2, 0.5, 40)")
    corners = projection @ np.array([[1, 0.5, -0.5, 1], [80, 40, -40, 1]]).T  # right, upper: near, far
    np.testing.assert_allclose(corners[:3] / corners[3], np.array([[1, 1, -1], [1, 1, 1]]).T, atol=1e-12)
    product = matrix("mat4.multiply([...Array(16).keys()], [...Array(16).keys()].map((k) => k * k))")
    first = np.arange(16.0).reshape(4, 4).T
    np.testing.assert_allclose(product, first @ first**2)


def test_a_shader_error_says_where(browser, tmp_path):
    show(browser, write_scene_html(tmp_path / "empty.html", Scene(title="empty", views=())))
    message = browser.run(
        "try { createProgram(viewer.gl, [POINT_SHADER[0], POINT_SHADER[1].replace('colour, 1.0', 'color')]) }"
        "catch (error) { return error.message }"
    )
    assert "fragment shader: ERROR: 0:9: 'color' : undeclared identifier" in message


def test_cameras_move_and_the_pointer_turns(browser, tmp_path, scene):
    show(browser, write_scene_html(tmp_path / "scene.html", scene))
    assert look(browser, "Top")[2] > 30
    np.testing.assert_allclose(
        look(browser, "Driver"), [0, 0, 0], atol=1e-6
    )  # the reference vehicle's sensor
    browser.run("document.querySelectorAll('#vehicles button')[1].click()")
    browser.wait(IDLE)
    np.testing.assert_allclose(browser.run("return viewer.eye()"), [3.8, 22, 0], atol=1e-4)
    before = browser.run("return viewer.camera.azimuth")
    browser.run("viewer.canvas.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
    browser.wait(IDLE)
    assert browser.run("return viewer.camera.azimuth") > before
    assert points_drawn(browser) == sum(int(v.predicted.kept.sum()) for v in scene.views)  # all, once at rest


def test_a_click_enlarges_a_picture(browser, tmp_path, scene):
    show(browser, write_scene_html(tmp_path / "scene.html", scene))
    browser.run("document.querySelector('figure img').click()")
    assert browser.run("return document.getElementById('enlarged').open")
    click(browser, "enlarged")
    assert not browser.run("return document.getElementById('enlarged').open")


@pytest.mark.parametrize("vehicles", [0, 1, 7])
def test_any_number_of_vehicles_opens(browser, tmp_path, vehicles):
    sample = batch(tuple(str(k) for k in range(max(vehicles, 1))), width=64)
    scene = scene_from_prediction(sample.inputs, sample.targets, prediction(sample), sample.keys)
    if vehicles == 0:
        scene = Scene(title="empty", views=())
    show(browser, write_scene_html(tmp_path / "scene.html", scene))
    assert browser.run("return document.querySelectorAll('#vehicles .row').length") == vehicles
    for name in ("Top", "Side", "Driver"):
        look(browser, name)
    assert browser.console() == []


def test_panorama_page_reads_out_the_pixel_under_the_pointer(browser, tmp_path):
    p = panorama(POSES[0])
    page = write_panorama_html(tmp_path / "panorama.html", p)
    show(browser, page)
    assert browser.run("return document.querySelectorAll('.layer > canvas').length") == 6
    point = (
        "const c = document.querySelector('.layer > canvas'), r = c.getBoundingClientRect();"
        "c.dispatchEvent(new PointerEvent('pointermove', {clientX: r.x + r.width * (126.5 / 252),"
        " clientY: r.y + r.height * (45.5 / 63)}))"
    )
    browser.run(point)
    browser.wait("document.getElementById('readout').textContent.includes('pixel 126, 45')")
    text = browser.run("return document.getElementById('readout').textContent")
    assert f"range {p.range_m[45, 126]:.2f} m" in text
    assert f"camera {p.source[45, 126]}" in text
    assert "azimuth 0.7°" in text
    assert "elevation -20.0°" in text
    browser.run(
        "const c = document.querySelector('.layer > canvas'), r = c.getBoundingClientRect();"
        "c.dispatchEvent(new WheelEvent('wheel', {deltaY: -600, clientX: r.x + 200, clientY: r.y + 60}))"
    )
    assert browser.run("return win.zoom") > 2
    assert browser.console() == []
    assert browser.requests() == [page.resolve().as_uri()]


def test_an_open_page_follows_the_colour_scheme(browser, tmp_path, scene):
    show(browser, write_scene_html(tmp_path / "scene.html", scene))

    def sky() -> float:
        return float(np.median(picture(browser, tmp_path)[-8:, :8]))

    browser.prefer("light")
    browser.wait("!matchMedia('(prefers-color-scheme: dark)').matches")
    assert sky() > 200
    browser.prefer("dark")
    browser.wait("matchMedia('(prefers-color-scheme: dark)').matches")
    assert sky() < 60
    browser.prefer("light")
