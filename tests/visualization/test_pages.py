"""Pages as text: self-contained, escaped, compact, and carrying exactly the points they were given."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from support.analytic_panoramas import POSES, batch, panorama, prediction

from coop3d.files import write_text
from coop3d.geometry import PinholeCamera
from coop3d.visualization import (
    ERROR_SCALE,
    OrientedBox,
    PointSet,
    Scene,
    SceneView,
    scene_from_prediction,
    write_panorama_html,
    write_scene_html,
)
from coop3d.visualization.pages import Markup, embed_json, fill, format_number
from coop3d.visualization.scene_page import scene_payload

HOSTILE = '</script><img src="https://evil.example/x" onerror=alert(1)>&\u2028"\''
LOADS = {"src", "href", "srcset", "data", "action", "poster", "xlink:href", "formaction"}


class Page(HTMLParser):
    """Elements that load something, the text outside scripts, and the embedded JSON."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.json = ""
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [str(v) for k, v in attrs if k in LOADS]
        self._inside = "json" if ("type", "application/json") in attrs else tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "json":
            self.json += data
        elif self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text.append(data)


def decode(packed: dict) -> np.ndarray:
    dtype = {"f4": "<f4", "u1": "u1", "u2": "<u2"}[packed["dtype"]]
    return np.frombuffer(base64.b64decode(packed["bdata"]), dtype).reshape(packed["shape"])


def scene_of(agents=("641", "650"), width=252, **options) -> Scene:
    sample = batch(agents, width)
    return scene_from_prediction(sample.inputs, sample.targets, prediction(sample), sample.keys, **options)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return scene_of()


def assert_self_contained(page: Page) -> None:
    assert all(url.startswith("data:") for url in page.loads)
    for script in page.scripts:
        assert not re.search(
            r"\bfetch\(|XMLHttpRequest|import\(|importScripts|WebSocket\(|sendBeacon", script
        )


def test_scene_page_loads_nothing_and_forbids_it(tmp_path, scene):
    text = write_scene_html(tmp_path / "scene.html", scene).read_text(encoding="utf-8")
    page = Page(text)
    assert_self_contained(page)
    assert "default-src 'none'" in text
    assert text.count("<section") == 2
    assert page.tags.count("img") == 2 * 5 + 1  # five pictures a vehicle, and the enlarged one


def test_hostile_names_stay_text(tmp_path):
    scene = replace(scene_of((HOSTILE, "650")), title=HOSTILE)
    numbers = {HOSTILE: 1.0, "pose": {HOSTILE: HOSTILE}}
    page = Page(
        write_scene_html(tmp_path / "s.html", scene, numbers, note=HOSTILE).read_text(encoding="utf-8")
    )
    assert_self_contained(page)
    assert page.tags.count("img") == 2 * 5 + 1
    assert page.tags.count("script") == 2
    assert "".join(page.text).count(HOSTILE) >= 5
    assert json.loads(page.json)["vehicles"][0]["name"] == HOSTILE


def metres(cloud: dict) -> np.ndarray:
    """[N, 3] points of a cloud's payload: floats, or 16-bit steps from its corner."""
    xyz = decode(cloud["xyz"])
    return xyz if "step" not in cloud else np.array(cloud["low"]) + np.array(cloud["step"]) * xyz


def test_page_carries_the_points_in_upright_axes(tmp_path, scene):
    page = Page(write_scene_html(tmp_path / "scene.html", scene).read_text(encoding="utf-8"))
    data = json.loads(page.json)
    for vehicle, view in zip(data["vehicles"], scene.views, strict=True):
        assert vehicle["imageSize"] == [252, 63]
        for kind, cloud in (("predicted", view.predicted), ("truth", view.truth)):
            x, y, z = cloud.points.T
            row_of = {tuple(pixel): k for k, pixel in enumerate(cloud.pixel.tolist())}
            found = [row_of[tuple(pixel)] for pixel in decode(vehicle[kind]["pixel"]).tolist()]
            assert sorted(found) == list(range(len(cloud.points)))  # each point once
            expected = np.stack([x, z, -y], axis=-1)[found]
            np.testing.assert_allclose(metres(vehicle[kind]), expected, atol=5e-3)
            photo = decode(data["photoPalette"])[decode(vehicle[kind]["photo"])].astype(int)
            assert np.abs(photo - cloud.rgb[found]).mean() < 4
            assert vehicle[kind]["kept"] == cloud.kept.sum()
            assert cloud.kept[found[: vehicle[kind]["kept"]]].all()  # what the mask rejects comes last
        expected = ERROR_SCALE.indices(view.predicted.error_true_pose_m)
        at_true_pose = np.sort(decode(vehicle["predicted"]["errorTruePose"]))
        np.testing.assert_array_equal(at_true_pose, np.sort(expected))


def cloud_of(points: np.ndarray) -> PointSet:
    N = len(points)
    return PointSet(
        points=points.astype(np.float32),
        rgb=np.zeros((N, 3), np.uint8),
        range_m=np.ones(N, np.float32),
        kept=np.ones(N, bool),
    )


@pytest.mark.parametrize("extent_m", [0.0, 3.0, 300.0, 5000.0])
def test_steps_never_cost_more_than_half_a_centimetre(extent_m):
    points = np.random.default_rng(0).uniform(-extent_m, extent_m, (1000, 3))
    view = SceneView(name="a", predicted=cloud_of(points))
    payload = scene_payload(Scene(title="t", views=(view,)))["vehicles"][0]["predicted"]
    order = np.random.default_rng(0).permutation(1000)
    expected = cloud_of(points).points[order][:, [0, 2, 1]] * [1, 1, -1]
    np.testing.assert_allclose(metres(payload), expected, atol=5.1e-3)
    assert payload["xyz"]["dtype"] == ("f4" if extent_m == 5000 else "u2")


def test_lidar_and_boxes_come_in_upright_axes():
    T = np.eye(4)
    T[:3, 3] = [3, 1, 20]
    box = OrientedBox(name=HOSTILE, T_ref_box=T, half_extent_m=np.array([1.0, 0.8, 2.2]))
    view = SceneView(name="a", lidar=cloud_of(np.array([[1, 2, 3], [4, 5, 6]])))
    data = scene_payload(Scene(title="t", views=(view,), boxes=(box,)))
    np.testing.assert_allclose(np.sort(metres(data["vehicles"][0]["lidar"])[:, 2]), [-5, -2], atol=1e-3)
    corners = np.array(data["boxes"][0]["corners"])
    np.testing.assert_allclose(corners.mean(axis=0), [3, 20, -1])
    np.testing.assert_allclose(corners.max(axis=0), [4, 22.2, -0.2])
    assert data["boxes"][0]["name"] == HOSTILE


def test_poses_are_upright_on_both_sides(scene):
    pose = np.array(scene_payload(scene)["vehicles"][1]["poses"]["truth"])
    np.testing.assert_allclose(pose[:3, 3], [3, 22, 0], atol=1e-5)  # x right, y forward: 22 m ahead
    np.testing.assert_allclose(pose[:3, 1], [0, -1, 0], atol=1e-5)  # it comes towards us
    np.testing.assert_allclose(pose[:3, 2], [0, 0, 1], atol=1e-5)


def test_a_quarter_of_a_million_points_fit_in_six_megabytes(tmp_path):
    scene = scene_of(width=1008, max_points=250_000)
    assert sum(len(c.points) for c in scene.clouds) > 240_000
    assert write_scene_html(tmp_path / "big.html", scene).stat().st_size <= 6e6


@pytest.mark.parametrize("spoil", ["scale", "mask_logits", "confidence"])
def test_spoilt_predictions_still_give_a_page(tmp_path, spoil):
    sample = batch()
    values = torch.full_like(getattr(prediction(sample), spoil), float("nan"))
    scene = scene_from_prediction(
        sample.inputs, sample.targets, replace(prediction(sample), **{spoil: values}), sample.keys
    )
    page = Page(
        write_scene_html(tmp_path / "s.html", scene, {"AbsRel": float("nan")}).read_text(encoding="utf-8")
    )
    assert len(json.loads(page.json)["vehicles"]) == 2
    assert "–" in "".join(page.text)


def test_a_scene_without_vehicles_is_a_page(tmp_path):
    page = Page(
        write_scene_html(tmp_path / "s.html", Scene(title="nothing", views=())).read_text(encoding="utf-8")
    )
    assert json.loads(page.json)["vehicles"] == []


def test_numbers_become_two_tables(tmp_path, scene):
    numbers = {"AbsRel": 0.08123456, "views": 2, "error [m]": {"641": 0.0, "650": np.float32(0.8)}}
    text = write_scene_html(tmp_path / "s.html", scene, numbers).read_text(encoding="utf-8")
    assert "<th>AbsRel</th><td>0.08123</td>" in text
    assert "<tr><th>650</th><td>0.8</td></tr>" in text


def test_panorama_page_carries_range_camera_and_angles(tmp_path):
    p = panorama(POSES[1], "650")
    page = Page(write_panorama_html(tmp_path / "p.html", p, HOSTILE).read_text(encoding="utf-8"))
    assert_self_contained(page)
    data = json.loads(page.json)
    range_cm = decode(data["range"])
    known = np.isfinite(p.range_m)
    np.testing.assert_allclose(range_cm[known] / 100, p.range_m[known], atol=0.0051)  # half a centimetre
    assert (range_cm[~known] == data["unknownRange"]).all()
    np.testing.assert_array_equal(decode(data["source"]), p.source)
    np.testing.assert_array_equal(decode(data["flags"]) & 1, p.covered)
    np.testing.assert_allclose(decode(data["azimuth"])[[0, 126]], [-180 + 180 / 252, 180 / 252], atol=1e-4)
    np.testing.assert_allclose(decode(data["elevation"])[[0, -1]], [45 - 45 / 63, -45 + 45 / 63], atol=1e-4)


def test_a_photograph_is_not_a_panorama(tmp_path):
    p = replace(panorama(POSES[0]), camera=PinholeCamera.from_hfov(252, 63, 100.0))
    with pytest.raises(ValueError, match="panoramas only"):
        write_panorama_html(tmp_path / "p.html", p)


def test_templates_escape_and_never_fill_twice():
    filled = fill("<p>{{a}}</p>{{b}}", {"a": "<{{b}}>", "b": Markup("<br>{{a}}")})
    assert filled == "<p>&lt;{{b}}&gt;</p><br>{{a}}"
    with pytest.raises(KeyError):
        fill("{{missing}}", {})


def test_embedded_json_cannot_close_its_element_and_refuses_nan():
    assert "<" not in embed_json({"a": HOSTILE})
    assert json.loads(embed_json({"a": HOSTILE})) == {"a": HOSTILE}
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed_json(float("nan"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.23456, "1.235"),
        (float("inf"), "–"),
        (3, "3"),
        (True, "yes"),
        ("a<b", "a<b"),
        (np.float32(0.5), "0.5"),
    ],
)
def test_numbers_are_short(value, text):
    assert format_number(value) == text


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    write_text(path, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
