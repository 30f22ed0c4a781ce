"""The page of a scenario: everything in the first frame, within its budget; the slider in a real browser."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from support.analytic_panoramas import BOXES, ROAD_Y, batch, panorama, pose, prediction
from support.browser import CHROMEDRIVER, CHROMIUM, MISSING
from support.page_actions import press, project, set_value

from coop3d.datasets import make_batch
from coop3d.types import FactoredPrediction
from coop3d.visualization import (
    OrientedBox,
    ScenarioFrame,
    Scene,
    SceneView,
    scene_from_prediction,
    write_scenario_html,
)
from coop3d.visualization.scenario_page import scenario_payload

HOSTILE = '</script><script>document.title="owned"</script>\n"é'


@lru_cache
def drive(frames: int = 4) -> tuple[ScenarioFrame, ...]:
    """Two vehicles that drive through the analytic street, 5 m a frame; the second one's pose is 2 m off."""
    out = []
    for k in range(frames):
        T = [pose(0.0, 5.0 * k, 0), pose(3.0, 40.0 - 5 * k, 180)]
        sample = make_batch([(panorama(T[0], "641"),), (panorama(T[1], "650"),)])
        scene = scene_from_prediction(
            sample.inputs, sample.targets, prediction(sample, 0.0, 2.0), sample.keys, max_points=8000
        )
        box = OrientedBox(name="car", T_ref_box=np.eye(4), half_extent_m=np.ones(3))
        out.append(ScenarioFrame.lean(f"{68 + 2 * k:06d}", replace(scene, boxes=(box,)), T[0]))
    return tuple(out)


def points(cloud: dict) -> np.ndarray:
    """[N, 3] metres of a cloud of the payload, decoded as the format says."""
    packed = cloud["xyz"]
    kind = {"f4": "<f4", "u2": "<u2"}[packed["dtype"]]
    values = np.frombuffer(base64.b64decode(packed["bdata"]), kind).reshape(packed["shape"])
    return values * np.array(cloud["step"]) + cloud["low"] if "step" in cloud else values


def test_streets_stay_and_vehicles_move():
    """True points of every frame and vehicle lie on the same analytic surfaces of the first frame's world."""
    frames = drive()
    payload = scenario_payload(frames, 20_000, 10.0)
    for k, frame in enumerate(payload["frames"]):
        np.testing.assert_allclose(np.array(frame["poses"]["0"]["truth"])[:3, 3], [0, 5 * k, 0], atol=1e-5)
        np.testing.assert_allclose(
            np.array(frame["poses"]["1"]["truth"])[:3, 3], [3, 40 - 5 * k, 0], atol=1e-4
        )
        predicted = np.array(frame["poses"]["1"]["predicted"])[:3, 3]
        np.testing.assert_allclose(predicted, [5, 40 - 5 * k, 0], atol=1e-3)
        np.testing.assert_allclose(np.mean(frame["boxes"][0], axis=0), [0, 5 * k, 0], atol=0.01)
        for cloud in frame["clouds"]:
            if cloud["kind"] == "truth":
                x, y, z = points(cloud).T  # right, forward, up
                p = np.stack([x, -z, y], axis=-1)
                outside = np.maximum(BOXES[:, 0] - p[:, None], p[:, None] - BOXES[:, 1]).max(axis=-1)
                gap = np.minimum(np.abs(outside).min(axis=1), np.abs(p[:, 1] - ROAD_Y))
                assert np.quantile(gap, 0.99) < 0.01  # steps are at most 5 mm


@pytest.mark.parametrize("max_points", [4, 1000, 100_000])
def test_the_budget_is_kept(max_points):
    payload = scenario_payload(drive(), max_points, 10.0)
    counts = [sum(c["xyz"]["shape"][0] for c in f["clouds"]) for f in payload["frames"]]
    assert max(counts) <= max_points // 4
    if max_points == 1000:
        assert min(counts) > 240
    with pytest.raises(ValueError, match="expected at least one for each of 4 frames"):
        scenario_payload(drive(), 3, 10.0)
    with pytest.raises(ValueError, match="at least one frame"):
        scenario_payload([], 100, 10.0)


def test_masked_points_are_left_out():
    (frame, *_) = drive()
    kept = sum(int(c.kept.sum()) for c in frame.scene.clouds)
    assert kept < sum(len(c.points) for c in frame.scene.clouds)
    payload = scenario_payload([frame], 1_000_000, 10.0)
    assert sum(c["xyz"]["shape"][0] for c in payload["frames"][0]["clouds"]) == kept


def hard_frames() -> list[ScenarioFrame]:
    """No points at all; seven vehicles, one with a hostile name, one diverged; one vehicle alone; truth only."""
    seven = batch(("1", "2", "3", "4", "5", "6", HOSTILE), width=64)
    good = prediction(seven)
    trans = good.trans.clone()
    trans[0, 2] = torch.nan
    diverged: FactoredPrediction = replace(good, trans=trans)
    alone = batch(("1",), width=64)
    nothing = Scene(title="empty", views=(SceneView(name="1", T_ref_view_true=np.eye(4)),))
    masked = replace(prediction(alone), mask_logits=torch.full((1, 1, 16, 64), -5.0))
    scenes = [
        nothing,
        scene_from_prediction(seven.inputs, seven.targets, diverged, seven.keys),
        scene_from_prediction(alone.inputs, None, masked, alone.keys),
        scene_from_prediction(alone.inputs, alone.targets, None, alone.keys),
    ]
    return [ScenarioFrame.lean(f"{k}{HOSTILE}", scene, np.eye(4)) for k, scene in enumerate(scenes)]


def test_hard_frames_make_a_page_whose_data_cannot_escape(tmp_path):
    path = write_scenario_html(tmp_path / "new" / "page.html", HOSTILE, hard_frames(), HOSTILE)
    text = path.read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 2
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    names = [v["name"] for v in json.loads(data)["vehicles"]]
    assert names == ["1", "2", "3", "4", "5", "6", HOSTILE]
    assert json.loads(data)["frames"][1]["poses"]["2"]["predicted"] is None
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_lean_frames_hold_no_pictures():
    assert all(not v.images and v.lidar is None for f in drive() for v in f.scene.views)


# ---- in a browser ----

WINDOW = (1400, 1000)
needs_browser = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason=MISSING)


def open_page(browser, page) -> None:
    browser.console(), browser.requests()
    browser.open(page)
    browser.wait("document.documentElement.dataset.ready")
    assert browser.run("return document.documentElement.dataset.ready") != "failed"


def drawn(browser) -> int:
    browser.run("window.idle = false; viewer.redraw(); viewer.whenIdle(() => (window.idle = true))")
    browser.wait("window.idle")
    return browser.run("return viewer.stats.points")


@needs_browser
def test_slider_shows_each_frame(browser, tmp_path):
    page = write_scenario_html(tmp_path / "page.html", "street", drive(), max_points=20_000)
    open_page(browser, page)
    counts = []
    for k in range(4):
        browser.run(f"byId('frame').value = {k}; byId('frame').dispatchEvent(new Event('input'))")
        counts.append(drawn(browser))
        assert f"({k + 1} of 4)" in browser.run("return byId('frametext').textContent")
        cells = browser.run("return [...document.querySelectorAll('#errors td')].map((c) => c.textContent)")
        assert cells == ["0.00 m", "0.0°", "2.00 m", "0.0°"]
    assert min(counts) > 1000
    browser.run("byId('history').click()")
    assert drawn(browser) == sum(counts)
    browser.run("byId('history').click(); byId('vehicle1').click()")
    assert 0 < drawn(browser) < counts[3]
    browser.run("byId('predicted').click()")
    assert drawn(browser) == 0
    assert browser.run("return byId('notice').textContent") == "All points are switched off."
    browser.run("byId('predicted').click(); byId('vehicle1').click()")
    shots = []
    for k in (0, 3):
        browser.run(f"show({k})")
        drawn(browser)
        browser.screenshot(tmp_path / f"{k}.png")
        shots.append((tmp_path / f"{k}.png").read_bytes())
    assert shots[0] != shots[1]
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.console() == []


@needs_browser
def test_play_runs_to_the_end_and_stops(browser, tmp_path):
    page = write_scenario_html(tmp_path / "page.html", "street", drive(), max_points=4000, fps=40.0)
    open_page(browser, page)
    assert browser.run("byId('play').click(); return byId('play').textContent") == "Pause"
    browser.wait("byId('play').textContent === 'Play'", 20)
    assert browser.run("return current") == 3
    browser.run("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: ',', bubbles: true}))")
    assert browser.run("return current") == 2
    browser.run("byId('follow').click(); show(1)")
    assert browser.run("return viewer.camera.target") == pytest.approx([0, 5, 0], abs=1e-4)
    assert browser.console() == []


@needs_browser
def test_hard_frames_show_without_errors(browser, tmp_path):
    page = write_scenario_html(tmp_path / "page.html", HOSTILE, hard_frames(), HOSTILE)
    open_page(browser, page)
    drawn(browser)
    assert browser.run("return byId('notice').textContent") == "This frame has no points."
    for k in range(4):
        browser.run(f"show({k}); byId('truth').checked = true")
        drawn(browser)
    assert browser.run("return document.title") != "owned"
    assert browser.run("return document.querySelectorAll('#vehicles label').length") == 7
    assert browser.console() == []
    assert browser.requests() == [page.resolve().as_uri()]


def wide_drive() -> list[ScenarioFrame]:
    """No points; the reference drives 200 m ahead, who is 60 m to its left is predicted 150 m to its right."""
    frames = []
    for k in range(3):
        other = {"T_ref_view_true": pose(-60.0, 0.0, 0), "T_ref_view_pred": pose(150.0, 0.0, 0)}
        here = {"T_ref_view_true": np.eye(4), "T_ref_view_pred": np.eye(4)}
        scene = Scene(title="t", views=(SceneView(name="a", **here), SceneView(name="b", **other)))
        frames.append(ScenarioFrame.lean(str(k), scene, pose(0.0, 100.0 * k, 0)))
    return frames


@needs_browser
@pytest.mark.parametrize("size", [(1400, 900), (900, 700), (500, 900)])
def test_every_side_sees_all_ways_in_a_window_that_fits(browser, tmp_path, size):
    browser.resize(*size)
    open_page(browser, write_scenario_html(tmp_path / "page.html", "wide", wide_drive()))
    places = np.array([[x, y, 0.0] for x in (-60, 0, 150) for y in (0, 100, 200)])
    for side in ("", "o", "u", "s"):
        if side:
            press(browser, side)
        at = project(browser, places)
        view = browser.run("return [viewer.canvas.clientWidth, viewer.canvas.clientHeight]")
        assert ((at > 0) & (at < view)).all(), side
    below = "document.querySelector('.timeline').getBoundingClientRect().top"
    gap = browser.run(f"return {below} - byId('cloud').getBoundingClientRect().bottom")
    assert gap == pytest.approx(0, abs=1.5)
    if size[0] > 620:  # else controls stand below
        assert browser.run("return document.documentElement.scrollHeight - innerHeight") <= 0


@needs_browser
def test_colours_by_metres_have_their_bar(browser, tmp_path):
    open_page(browser, write_scenario_html(tmp_path / "page.html", "street", drive()))
    for colour, bar in (("range", "1 m"), ("height", "0 m"), ("photo", "as photographed")):
        set_value(browser, "colour", colour)
        assert browser.run("return byId('scale').textContent").startswith(bar), colour
