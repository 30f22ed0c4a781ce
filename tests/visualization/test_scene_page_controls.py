"""How the 3D page behaves, in headless Chromium: keys, addresses, themes, layout, and input that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.analytic_panoramas import batch, prediction
from support.browser import CHROMEDRIVER, CHROMIUM, MISSING, Browser
from support.page_actions import (
    IDLE,
    click,
    look,
    move_pointer,
    picture,
    points_drawn,
    press,
    project,
    set_value,
    show,
)

from coop3d.visualization import (
    PointSet,
    Scene,
    SceneView,
    scene_from_prediction,
    upright,
    write_panorama_html,
    write_scene_html,
)

pytestmark = pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason=MISSING)

HOSTILE = '</script><img src="https://evil.example/x" onerror=document.title=1>&\u2028"\''


@pytest.mark.parametrize("size", [(1920, 1080), (1280, 720), (480, 900)])
def test_every_vehicle_is_in_the_picture(browser, tmp_path, size):
    """Seven vehicles along a street, one predicted beyond its end; one prediction is lost altogether."""
    views = []
    for k in range(7):
        true, predicted = np.eye(4), np.eye(4)
        true[:3, 3] = [4.0 * (-1) ** k, 0, 25.0 * (k - 3)]
        predicted[:3, 3] = [20, 0, 120] if k == 6 else [0, 0, 4000] if k == 5 else true[:3, 3]
        views.append(SceneView(name=str(k), T_ref_view_true=true, T_ref_view_pred=predicted))
    page = write_scene_html(tmp_path / "s.html", Scene(title="street", views=tuple(views)))
    stands = [T[:3, 3] for v in views for T in (v.T_ref_view_true, v.T_ref_view_pred) if T[2, 3] < 1000]
    browser.resize(*size)
    show(browser, page)
    for name in ("as opened", "Top", "Side", "Oblique"):
        if name != "as opened":
            look(browser, name)
        width, height = browser.run("return [viewer.canvas.clientWidth, viewer.canvas.clientHeight]")
        seen = project(browser, upright(np.array(stands))) / [width, height]
        assert seen.min() > 0.03, name
        assert seen.max() < 0.97, name
        assert np.ptp(seen, axis=0).max() > 0.3, name  # and not from the moon


def test_every_key_does_what_its_list_says(browser, page):
    show(browser, page)
    keys = {"P": "predicted", "G": "placed", "T": "truth", "L": "lidar", "V": "frames", "B": "boxes", "R": "grid",
            "M": "masked", "E": "shaded", "1": "vehicle0", "2": "vehicle1"}  # fmt: skip
    checked = "return document.getElementById(arguments[0]).checked"
    for key, control in keys.items():
        before = browser.run(checked, control)
        press(browser, key.lower())
        assert browser.run(checked, control) != before, key
    eyes = []
    for key, name in {"O": "Oblique", "U": "Top", "S": "Side", "D": "Driver"}.items():
        press(browser, key.lower())
        eyes.append(browser.run("return viewer.eye()"))
        np.testing.assert_allclose(look(browser, name), eyes[-1])
    assert len(np.unique(np.round(eyes, 3), axis=0)) == 4
    value = "return document.getElementById(arguments[0]).value"
    press(browser, "c")
    assert browser.run(value, "colour") == "vehicle"
    press(browser, "C", shiftKey=True)
    assert browser.run(value, "colour") == "photo"
    press(browser, "]")
    assert browser.run(value, "size") == "1.8"
    press(browser, "[")
    assert browser.run(value, "size") == "1.6"
    press(browser, "p", ctrlKey=True)
    assert not browser.run(checked, "predicted")  # browsers' own shortcuts stay theirs
    press(browser, "?")
    assert browser.run("return document.getElementById('help').open")
    listed = browser.run("return [...document.querySelectorAll('#helptext kbd')].map(k => k.textContent)")
    assert set(keys) | {"O", "U", "S", "D", "C", "[", "]", "?"} <= set(listed)
    press(browser, "p")
    assert not browser.run(checked, "predicted")  # not behind the open list
    assert browser.console() == []


def test_the_address_brings_back_what_was_shown(browser, page, tmp_path):
    show(browser, page)
    assert browser.run("return location.hash") == ""
    click(browser, "share")
    browser.wait("document.getElementById('share').textContent !== 'Copy link'")
    assert browser.run("return location.hash").startswith("#cam=")
    look(browser, "Side")
    browser.run("viewer.orbit(40, 25); viewer.zoom(-0.4); viewer.pan(20, 10)")
    for control in ("truth", "predicted", "vehicle1", "grid"):
        click(browser, control)
    set_value(browser, "colour", "height")
    set_value(browser, "range", 200)
    browser.run("document.querySelectorAll('#layers input')[2].click()")
    before = picture(browser, tmp_path)
    browser.wait("location.hash.includes('colour=height') && location.hash.includes('closed=2')")
    link = browser.run("return location.hash")
    show(browser, page, link)
    after = picture(browser, tmp_path)
    assert (np.abs(after - before).max(axis=-1) > 8).mean() < 0.01
    assert (
        browser.run("return document.querySelectorAll('figure[hidden]').length") == 2
    )  # one for each vehicle
    assert browser.run("return document.getElementById('colour').value") == "height"
    # The page follows the address even where it was just about to write its own there.
    asked = link.replace("colour=height", "colour=vehicle")
    browser.run("location.hash = arguments[0]; history.replaceState(null, '', arguments[1])", asked, link)
    browser.wait("document.getElementById('colour').value === 'vehicle'")
    assert browser.console() == []


@pytest.mark.parametrize(
    "fragment",
    [
        "#cam=1,2,3&colour=<b>&on=frames,evil,<img>&hide=99,x&set=NaN,,1e999&closed=-1,q",
        "#cam=NaN,1,2,3,4,5",
        "#cam=0,0,0,-5,0,0",
        "#%E0%A4%A",
        "#on=constructor,__proto__&colour=constructor",
    ],
)
def test_a_broken_address_changes_nothing_it_cannot_mean(browser, page, fragment):
    show(browser, page, fragment)
    camera = browser.run("return viewer.camera")
    assert np.isfinite([camera["distance"], camera["azimuth"], *camera["target"]]).all()
    assert camera["distance"] > 0
    assert browser.run("return document.getElementById('colour').value") == "photo"
    assert browser.run("return document.getElementById('size').value") in ("1.6", "1.5", "2.1", "2.2")
    assert browser.run("return document.querySelectorAll('#labels b, #panel img').length") == 0
    assert browser.console() == []


def test_the_switch_changes_the_theme_and_the_next_page_remembers(browser, page, tmp_path, rich):
    browser.prefer("light")
    show(browser, page)

    def sky() -> float:
        return float(np.median(picture(browser, tmp_path)[-6:, :6]))

    try:
        for control in ("predicted", "grid"):
            click(browser, control)
        assert sky() > 200
        click(browser, "theme")
        assert sky() < 60
        show(browser, page)
        assert browser.run("return document.documentElement.dataset.theme") == "dark"
        browser.prefer("dark")
        click(browser, "theme")
        for control in ("predicted", "grid"):
            click(browser, control)
        assert sky() > 200  # chosen against the system
    finally:
        browser.run("localStorage.clear()")
        browser.prefer("light")


# ---- layout and bad input ----


@pytest.mark.parametrize("size", [(1366, 640), (1920, 950), (700, 800)])
def test_it_fits_the_window_and_nothing_jumps(browser, page, size):
    browser.resize(*size)
    try:
        show(browser, page)
        scroll, inner = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert scroll <= inner
        where = (
            "const r = document.querySelector('.stage').getBoundingClientRect();"
            "const c = viewer.canvas.getBoundingClientRect();"
            "const reel = document.getElementById('reel').getBoundingClientRect();"
            "return [r.x, r.y, r.width, r.height, c.x, c.y, c.width, c.height, reel.y, reel.height]"
        )
        before = browser.run(where)
        if size[0] > 1000:
            assert before[1] + before[3] <= size[1]  # controls, view and pictures at one glance
            assert before[6] > 0.4 * size[0]
        for colour in ("vehicle", "range", "kind", "error", "photo"):
            set_value(browser, "colour", colour)
            assert browser.run(where) == before
        move_pointer(browser, ".picture img", 30, 20)
        browser.wait("mark !== null")
        assert browser.run(where) == before
        browser.run("document.getElementById('readout').textContent = 'much to say '.repeat(40)")
        assert browser.run(where) == before
        click(browser, "predicted")
        browser.wait(IDLE)
        assert browser.run(where) == before
    finally:
        browser.devtools("Emulation.clearDeviceMetricsOverride")


def notice(browser: Browser) -> str:
    browser.wait(IDLE)
    return browser.run("const n = document.getElementById('notice'); return n.hidden ? '' : n.textContent")


def test_an_empty_view_says_why(browser, tmp_path):
    show(browser, write_scene_html(tmp_path / "a.html", Scene(title="nothing", views=(SceneView(name="a"),))))
    assert "no points" in notice(browser)
    sample = batch()
    all_masked = replace(
        prediction(sample), mask_logits=torch.full_like(prediction(sample).mask_logits, -5.0)
    )
    scene = scene_from_prediction(sample.inputs, None, all_masked, sample.keys)
    show(browser, write_scene_html(tmp_path / "b.html", scene))
    assert "mask rejects every point" in notice(browser)
    click(browser, "masked")
    assert notice(browser) == ""
    assert points_drawn(browser) > 1000
    click(browser, "vehicle0")
    click(browser, "vehicle1")
    assert "All vehicles are switched off" in notice(browser)
    click(browser, "vehicle0")
    click(browser, "predicted")
    assert "No kind of points" in notice(browser)
    assert browser.console() == []


@pytest.mark.parametrize("spoil", ["scale", "confidence", "mask_logits", "distance"])
def test_nan_anywhere_leaves_a_page_that_works(browser, tmp_path, spoil):
    sample = batch()
    value = getattr(prediction(sample), spoil)
    broken = replace(prediction(sample), **{spoil: torch.full_like(value, float("nan"))})
    scene = scene_from_prediction(sample.inputs, sample.targets, broken, sample.keys)
    show(browser, write_scene_html(tmp_path / "s.html", scene))
    for key in "gtcuob":
        press(browser, key)
    move_pointer(browser, ".picture img", 30, 20)
    assert browser.console() == []


def test_hostile_names_stay_text(browser, tmp_path, rich):
    views = tuple(
        replace(view, name=HOSTILE, images={HOSTILE: view.images["Photographs"]}) for view in rich.views
    )
    scene = Scene(title=HOSTILE, views=views, boxes=tuple(replace(box, name=HOSTILE) for box in rich.boxes))
    page = write_scene_html(tmp_path / "s.html", scene, {HOSTILE: HOSTILE, "a": {HOSTILE: 1.0}}, note=HOSTILE)
    show(browser, page)
    press(browser, "?")
    browser.run("document.getElementById('help').close()")
    move_pointer(browser, ".picture img", 60, 40)
    browser.wait("mark !== null")
    assert browser.run("return document.title").startswith(HOSTILE.split("\u2028")[0])
    assert browser.run("return document.querySelector('#vehicles span').textContent") == HOSTILE
    assert browser.run("return [...document.images].every(i => !i.src.includes('evil'))")
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.console() == []


def test_without_webgl_pictures_and_numbers_remain(browser, page):
    script = browser.devtools(
        "Page.addScriptToEvaluateOnNewDocument",
        source="const get = HTMLCanvasElement.prototype.getContext; HTMLCanvasElement.prototype.getContext ="
        " function (kind, ...rest) { return kind === 'webgl2' ? null : get.call(this, kind, ...rest); }",
    )
    try:
        show(browser, page)
        assert "no WebGL2" in browser.run("return document.getElementById('failure').textContent")
        move_pointer(browser, ".picture img", 30, 20)
        browser.run("document.querySelector('.picture img').click()")
        assert browser.run("return document.getElementById('enlarged').open")
        assert browser.console() == []
    finally:
        browser.devtools("Page.removeScriptToEvaluateOnNewDocument", **script)


def test_a_million_points_stay_usable(browser, tmp_path):
    rng = np.random.default_rng(0)
    N = 1_000_000
    cloud = PointSet(
        points=rng.uniform([-60, -8, -60], [60, 1.9, 60], (N, 3)).astype(np.float32),
        rgb=rng.integers(0, 255, (N, 3)).astype(np.uint8),
        range_m=rng.uniform(2, 80, N).astype(np.float32),
        kept=np.ones(N, bool),
        pixel_angle_rad=0.002,
    )
    view = SceneView(name="a", predicted=cloud, T_ref_view_pred=np.eye(4))
    page = write_scene_html(tmp_path / "s.html", Scene(title="million", views=(view,)))
    assert page.stat().st_size < 15e6
    show(browser, page)
    assert points_drawn(browser) == N
    assert (
        browser.run("const t = performance.now(); viewer.pick(300, 200); return performance.now() - t") < 2000
    )
    for _ in range(4):  # while it moves, what is drawn adapts to the machine
        browser.run("viewer.orbit(5, 0)")
        browser.wait("!viewer.busy")
    assert browser.run("return viewer.share") < 1
    browser.wait(IDLE)
    assert browser.console() == []


def test_panorama_page_shares_the_switch(browser, tmp_path):
    from support.analytic_panoramas import POSES, panorama

    browser.prefer("light")
    show(browser, write_panorama_html(tmp_path / "p.html", panorama(POSES[0])))
    background = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(background)
    click(browser, "theme")
    assert browser.run(background) != light
    browser.run("localStorage.clear()")
    assert browser.console() == []


def test_the_keyboard_list_names_every_control(browser, page):
    """What the panel prints beside a control is the key that the list knows."""
    show(browser, page)
    printed = browser.run("return [...document.querySelectorAll('.stage kbd')].map(k => k.textContent)")
    listed = browser.run("return [...document.querySelectorAll('#helptext kbd')].map(k => k.textContent)")
    assert len(printed) >= 15
    assert set(printed) <= set(listed), json.dumps(printed)
    assert len(printed) == len(set(printed))
