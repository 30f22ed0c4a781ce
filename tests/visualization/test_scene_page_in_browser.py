"""What the 3D page shows, in headless Chromium: kinds of points, their pixels in the pictures, boxes, labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.analytic_panoramas import BOXES, ROAD_Y
from support.browser import CHROMEDRIVER, CHROMIUM, MISSING, Browser
from support.page_actions import (
    IDLE,
    click,
    look,
    move_pointer,
    picture,
    points_drawn,
    project,
    show,
)
from support.street_scenes import scene_of

from coop3d.visualization import (
    OrientedBox,
    PointSet,
    Scene,
    SceneView,
    upright,
    write_scene_html,
)

pytestmark = pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason=MISSING)

BOX_RGB = np.round(255 * np.array([0.87, 0.62, 0.05]))


def cloud_on_page(browser: Browser, vehicle: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """[N, 3] upright metres of the points that the mask keeps and [N, 2] their pixels, ordered by pixel."""
    xyz, pixels = browser.run(
        "const c = gpuCloud(data.vehicles[arguments[0]], arguments[1]);"
        "return [[...c.xyz.slice(0, 3 * c.kept)], [...c.pixels.slice(0, 2 * c.kept)]]",
        vehicle,
        kind,
    )
    pixels = np.array(pixels).reshape(-1, 2)
    order = np.lexsort(pixels.T)
    return np.array(xyz).reshape(-1, 3)[order], pixels[order]


def distance_to_street(points: np.ndarray) -> np.ndarray:
    """[N] metres from upright points in the street's frame to the road or the nearest box."""
    p = np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=-1)  # OpenCV axes
    outside = np.maximum(BOXES[:, None, 0] - p, p - BOXES[:, None, 1]).max(axis=-1)
    return np.minimum(np.abs(outside).min(axis=0), np.abs(p[:, 1] - ROAD_Y))


# ---- kinds of points ----


def test_exact_predictions_of_all_vehicles_coincide_with_truth_and_street(browser, tmp_path):
    scene = scene_of(noise=0.0, shift_m=0.0, agents=("641", "650", "660"), max_points=18_000)
    show(browser, write_scene_html(tmp_path / "s.html", scene))
    for v in range(3):
        truth, pixels = cloud_on_page(browser, v, "truth")
        assert len(truth) > 2500
        assert distance_to_street(truth).max() < 0.05
        at = {tuple(pixel): k for k, pixel in enumerate(pixels.tolist())}
        for kind in ("predicted", "placed"):
            points, same = cloud_on_page(browser, v, kind)
            assert len(points) > 0.8 * len(truth)
            true = truth[[at[tuple(pixel)] for pixel in same.tolist()]]  # both draw the same pixels
            np.testing.assert_allclose(points, true, atol=0.02)


def test_true_pose_undoes_the_error_of_the_pose_alone(browser, tmp_path):
    show(browser, write_scene_html(tmp_path / "s.html", scene_of(noise=0.0, shift_m=0.8)))
    truth, _ = cloud_on_page(browser, 1, "truth")
    shifted, _ = cloud_on_page(browser, 1, "predicted")
    placed, _ = cloud_on_page(browser, 1, "placed")
    np.testing.assert_allclose(shifted - truth, [[0.8, 0, 0]] * np.ones((len(truth), 1)), atol=0.02)
    np.testing.assert_allclose(placed, truth, atol=0.02)
    errors = "const c = gpuCloud(data.vehicles[1], arguments[0]); return [...c.scalars].slice(0, 4 * c.kept)"
    error = {k: np.array(browser.run(errors, k))[3::4] for k in ("predicted", "placed")}
    assert (error["placed"] == 0).all()  # at most 5 cm, the scale's end
    expected = np.log(0.8 / 0.05) / np.log(10 / 0.05) * 254
    np.testing.assert_allclose(error["predicted"], expected, atol=1)


def test_each_kind_shows_its_own_points(browser, page, rich):
    show(browser, page)
    kept = sum(int(v.predicted.kept.sum()) for v in rich.views)
    counts = {
        "predicted": kept,
        "placed": kept,
        "truth": sum(len(v.truth.points) for v in rich.views),
        "lidar": sum(len(v.lidar.points) for v in rich.views),
    }
    click(browser, "predicted")
    assert points_drawn(browser) == 0
    for kind, count in counts.items():
        click(browser, kind)
        assert points_drawn(browser) == count, kind
        click(browser, kind)
    assert browser.console() == []


# ---- points and pixels ----


def test_pointing_at_a_pixel_rings_its_point(browser, page):
    show(browser, page)
    click(browser, "predicted")
    click(browser, "truth")
    look(browser, "Top")
    points, pixels = cloud_on_page(browser, 1, "truth")
    places = project(browser, points)
    width, height = browser.run("return [viewer.canvas.clientWidth, viewer.canvas.clientHeight]")
    inside = np.flatnonzero((places > 40).all(axis=-1) & (places < [width - 40, height - 40]).all(axis=-1))
    for k in inside[:: len(inside) // 5]:
        at = browser.run(
            "const r = document.querySelectorAll('.picture')[5].getBoundingClientRect();"
            "return [r.width, r.height]"
        )
        column, row = (pixels[k] + 0.5) / [252, 63] * at
        move_pointer(browser, "section:nth-of-type(2) .picture img", column, row)
        browser.wait("mark !== null && document.getElementById('ring').style.display === 'block'")
        ring = browser.run(
            "const r = document.getElementById('ring').getBoundingClientRect();"
            "const c = viewer.canvas.getBoundingClientRect();"
            "return [r.x + r.width / 2 - c.x, r.y + r.height / 2 - c.y]"
        )
        np.testing.assert_allclose(ring, places[k], atol=1.0)
        crosses = browser.run(
            "return [...document.querySelectorAll('.cross')].map(c => c.style.display === 'block' ?"
            " [parseFloat(c.style.left), parseFloat(c.style.top), Number(c.dataset.vehicle)] : null)"
        )
        shown = np.array([c for c in crosses if c])
        assert len(shown) == 5  # in every picture of its vehicle, in no other's
        np.testing.assert_allclose(shown, [[*(100 * (pixels[k] + 0.5) / [252, 63]), 1]] * 5, atol=1e-3)
        readout = browser.run("return document.getElementById('readout').textContent")
        assert readout.startswith("650, True points · range ")
        assert f"pixel {pixels[k][0]}, {pixels[k][1]}" in readout
        browser.run("setMark(null)")


def test_pointing_at_a_point_says_what_it_is_and_marks_its_pixel(browser, page, rich):
    show(browser, page)
    look(browser, "Driver")
    cloud = rich.views[0].predicted
    x, y, z = cloud.points.T
    k = np.flatnonzero((np.abs(y - ROAD_Y) < 0.2) & (np.abs(z - 10) < 3) & (np.abs(x) < 2) & cloud.kept)[0]
    right, down = project(browser, upright(cloud.points[k : k + 1]))[0]
    move_pointer(browser, "#cloud", right, down)
    browser.wait("document.getElementById('tip').style.display === 'block'")
    agent, *lines = browser.run("return document.getElementById('tip').textContent").split("\n")
    assert agent in ("641, Predicted points", "650, Predicted points")
    told = dict(line.split(" ", 1) for line in lines)
    index, vehicle = browser.run("return [mark.index, data.vehicles.indexOf(mark.vehicle)]")
    found = rich.views[vehicle].predicted
    pixel = [int(t) for t in told["pixel"].split(", ")]
    same = np.flatnonzero((found.pixel == pixel).all(axis=-1))[0]
    assert float(told["range"].split()[0]) == pytest.approx(found.range_m[same], rel=0.06)  # two digits
    error = float(told["error"].strip("≤≥ m"))
    assert error == pytest.approx(np.clip(found.error_m[same], 0.05, 10), rel=0.06)
    assert told["error"].startswith("≤") == (error == 0.05)  # an end of the scale says so
    assert float(told["confidence"]) == pytest.approx(found.confidence[same], rel=0.1)
    np.testing.assert_allclose(
        [float(t) for t in told["x"].replace("y", "").replace("z", "").replace("m", "").split()],
        upright(found.points[same]),
        atol=0.011,
    )
    crosses = browser.run("return [...document.querySelectorAll('.cross')].filter(c => c.style.display === 'block')"
                          ".map(c => [parseFloat(c.style.left), Number(c.dataset.vehicle)])")  # fmt: skip
    np.testing.assert_allclose(crosses, [[100 * (pixel[0] + 0.5) / 252, vehicle]] * 5, atol=1e-3)
    assert index < int(found.kept.sum())
    browser.run("viewer.canvas.dispatchEvent(new PointerEvent('pointerleave'))")
    browser.wait("document.getElementById('tip').style.display === 'none'")


def test_a_double_click_turns_about_the_point(browser, page, rich):
    show(browser, page)
    look(browser, "Driver")
    cloud = rich.views[0].predicted
    point = upright(
        cloud.points[cloud.kept & (np.abs(cloud.points[:, 2] - 12) < 2) & (cloud.points[:, 1] > 1)][:1]
    )
    right, down = project(browser, point)[0]
    browser.run(
        "const r = viewer.canvas.getBoundingClientRect(), [x, y] = arguments;"
        "viewer.canvas.dispatchEvent(new MouseEvent('dblclick', {clientX: r.x + x, clientY: r.y + y}))",
        right,
        down,
    )
    browser.wait(IDLE)
    target = np.array(browser.run("return viewer.camera.target"))
    everything = upright(np.concatenate([v.predicted.points for v in rich.views]))
    assert np.linalg.norm(everything - target, axis=-1).min() < 0.02  # it is one of the points
    assert np.linalg.norm(target - point) < 3


# ---- boxes and labels ----


def test_boxes_are_drawn_where_they_are_and_named(browser, page, rich, tmp_path):
    show(browser, page)
    for control in ("predicted", "frames", "grid"):
        click(browser, control)
    look(browser, "Top")
    image = picture(browser, tmp_path)
    corners = upright(np.stack([box.corners() for box in rich.boxes]))
    for box in corners:
        for a, b in ((0, 1), (4, 5), (0, 4), (1, 5), (3, 7)):
            place = project(browser, (box[a] + box[b])[None] / 2)[0]
            column, row = np.floor(place).astype(int)
            around = image[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 3)
            assert np.abs(around - BOX_RGB).max(axis=-1).min() < 12, (box[a], box[b])
    names = (
        "return [...document.querySelectorAll('#labels .box')]"
        ".filter(n => n.style.visibility === 'visible').map(n => n.textContent)"
    )
    assert browser.run(names) == ["7", "8"]
    click(browser, "boxes")
    assert (np.abs(picture(browser, tmp_path) - BOX_RGB).max(axis=-1) >= 12).all()
    assert browser.run(names) == []


def test_points_hide_the_lines_behind_them(browser, tmp_path):
    x, y = np.meshgrid(np.arange(-4, 4, 0.05), np.arange(-3, 1.9, 0.05))
    N = x.size
    wall = PointSet(
        points=np.stack([x.ravel(), y.ravel(), np.full(N, 8.0)], axis=-1).astype(np.float32),
        rgb=np.full((N, 3), 90, np.uint8),
        range_m=np.full(N, 8.0, np.float32),
        kept=np.ones(N, bool),
        pixel_angle_rad=0.01,
    )
    boxes = []
    for z in (12, 5):
        T = np.eye(4)
        T[2, 3] = z
        boxes.append(OrientedBox(name="", T_ref_box=T, half_extent_m=np.ones(3)))
    view = SceneView(name="a", predicted=wall, T_ref_view_pred=np.eye(4))

    def yellow(box: OrientedBox) -> int:
        scene = Scene(title="wall", views=(view,), boxes=(box,))
        show(browser, write_scene_html(tmp_path / "s.html", scene))
        look(browser, "Driver")
        return int((np.abs(picture(browser, tmp_path) - BOX_RGB).max(axis=-1) < 12).sum())

    assert yellow(boxes[0]) == 0
    assert yellow(boxes[1]) > 200


def test_a_driver_looks_out_of_no_cage(browser, page, tmp_path):
    show(browser, page)
    for control in ("predicted", "grid", "boxes", "vehicle1"):
        click(browser, control)
    look(browser, "Driver")
    sky = browser.run("return themeColour('--sky').map((c) => Math.round(255 * c))")
    between = picture(browser, tmp_path)[60:-90]  # of the buttons and the notice
    assert (np.abs(between - sky) < 3).all()  # its own car, axes and cameras are not in the way
    look(browser, "Oblique")
    assert (np.abs(picture(browser, tmp_path)[60:-90] - sky) > 40).any()


def test_no_two_labels_overlap(browser, tmp_path, rich):
    crowd = []
    for k in range(30):
        T = np.eye(4)
        T[:3, 3] = [k % 6 - 3.0, 1.1, 8 + k // 6]
        crowd.append(OrientedBox(name=f"crowd {k}", T_ref_box=T, half_extent_m=np.full(3, 0.3)))
    show(browser, write_scene_html(tmp_path / "s.html", replace(rich, boxes=tuple(crowd))))
    for name in ("Oblique", "Top", "Side"):
        look(browser, name)
        boxes = np.array(browser.run(
            "return [...document.querySelectorAll('#labels span')].filter(n => n.style.visibility === 'visible')"
            ".map(n => n.getBoundingClientRect()).map(r => [r.left, r.right, r.top, r.bottom])"
        ))  # fmt: skip
        assert 4 <= len(boxes) < 30
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                apart = a[0] >= b[1] or b[0] >= a[1] or a[2] >= b[3] - 4 or b[2] >= a[3] - 4
                assert apart, name
