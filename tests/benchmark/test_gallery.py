"""The index of a folder of runs: order, links, numbers, thumbnails; whatever the folders hold."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from support.browser import CHROMEDRIVER, CHROMIUM, MISSING
from support.scripts import run_script

from coop3d.benchmark.gallery import write_gallery
from coop3d.evaluation.labels import title_of
from coop3d.visualization import save_png

HOSTILE = "<img src=x onerror=alert(1)>'&\"%23#?"


def run(folder: Path, name: str, age: float, **files: str) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    for file, text in files.items():
        (path / file.replace("__", ".")).write_text(text)
    for file in path.iterdir():
        os.utime(file, (2e9 - age, 2e9 - age))
    return path


@pytest.fixture
def runs(tmp_path):
    run(
        tmp_path, "oldest", 300, summary__json=json.dumps({"pose/translation_m/median": 22.25, "views": 48.0})
    )
    run(tmp_path, "newest", 100, page__html="<p>3D</p>", metrics__json=json.dumps({"loss": 0.5, "lr": None}))
    middle = run(tmp_path, HOSTILE.replace("/", ""), 200, a__html="", x_summary__json='{"pred_scale": 8.5}')
    image = np.zeros((40, 160, 3), np.uint8)
    image[..., 0] = 200
    save_png(middle / "views" / "a.png", image)
    os.utime(middle / "views" / "a.png", (1e9, 1e9))
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "summary.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("not a run")
    return tmp_path


def test_newest_first_with_numbers_and_links_that_lead_somewhere(runs):
    text = write_gallery(runs).read_text(encoding="utf-8")
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert heads[0] == "newest"
    assert heads[2] == "oldest"
    assert len(heads) == 3
    assert "<img src=x" not in text
    assert ">22.25<" in text
    assert "translation, median [m]" in text
    assert "<dt>loss</dt><dd>0.5</dd>" in text
    assert "8.5" in text
    links = re.findall(r'href="(\./[^"]*)"', text)
    assert links
    assert all((runs / unquote(link)).is_file() for link in links)
    assert text.count("data:image/webp;base64,") == 1


def test_scores_are_called_as_in_reports(tmp_path):
    scores = (
        "pose/translation_m/median",
        "pose/rotation_deg/median",
        "range/abs_rel",
        "range/delta_125",
        "mask/iou",
    )
    run(tmp_path, "evaluation", 0, summary__json=json.dumps(dict.fromkeys(scores, 0.5)))
    text = write_gallery(tmp_path).read_text(encoding="utf-8")
    assert re.findall("<dt>(.*?)</dt>", text) == [title_of(score) for score in scores]


def test_a_gallery_is_replaced_whole_and_is_not_its_own_run(runs):
    first = write_gallery(runs).read_text(encoding="utf-8")
    assert write_gallery(runs).read_text(encoding="utf-8") == first
    assert not [p for p in runs.iterdir() if p.name.startswith(".index")]


def test_an_evaluation_shows_its_summary_only(tmp_path):
    numbers = {
        "summary__json": '{"mask/iou": 0.75}',
        "metrics__json": '{"version": 1, "model": {"mask/iou": 0.5}}',
    }
    run(tmp_path, "evaluation", 0, **numbers)
    run(tmp_path, "study", 1, metrics__json='{"version": 1, "loss": 0.5}')
    text = write_gallery(tmp_path).read_text(encoding="utf-8")
    assert "<dt>mask IoU</dt><dd>0.75</dd>" in text
    assert text.count("metrics.json") == 1
    assert "<dt>loss</dt><dd>0.5</dd>" in text
    assert "<dt>version</dt>" not in text


def test_somebody_elses_index_is_left_alone(runs):
    index = runs / "index.html"
    for text in ("<h1>Lab notes</h1>", '<meta name="generator" content="coop3d">', ""):
        index.write_text(text)
        said = run_script("make_gallery.py", runs, status=1).stderr
        assert f"{index}: is no gallery" in said
        assert "--force" in said
        assert index.read_text() == text
    run_script("make_gallery.py", runs, "--force")
    run_script("make_gallery.py", runs, "--title", "Again")
    assert "<h1>Again</h1>" in index.read_text(encoding="utf-8")


@pytest.mark.parametrize("broken", ["{", "[1, 2]", '{"a": ' * 5000, "\xff"])
def test_broken_numbers_and_pictures_are_named_not_fatal(tmp_path, broken):
    path = run(tmp_path, "run", 0)
    (path / "summary.json").write_bytes(broken.encode("latin-1"))
    (path / "a.png").write_bytes(b"not a picture")
    (path / "b.png").write_bytes(b"")
    text = write_gallery(tmp_path).read_text(encoding="utf-8")
    assert "summary.json cannot be read" in text
    assert "no picture" in text


def test_nothing_there(tmp_path):
    assert "No run here yet" in write_gallery(tmp_path).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="no such folder"):
        write_gallery(tmp_path / "nowhere")


def test_a_render_is_preferred_as_thumbnail(tmp_path):
    path = run(tmp_path, "run", 0)
    for name, colour in (("a.png", (0, 0, 200)), ("z_oblique.png", (200, 0, 0))):
        save_png(path / name, np.full((30, 60, 3), colour, np.uint8))
    text = write_gallery(tmp_path).read_text(encoding="utf-8")
    (encoded,) = re.findall(r"data:image/webp;base64,([^\"]+)", text)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
    assert picture[..., 2].mean() > 150 > picture[..., 0].mean()  # red


@pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason=MISSING)
def test_in_a_browser_nothing_is_requested_and_nothing_runs(runs, browser):
    page = write_gallery(runs)
    browser.requests()
    browser.open(page)
    assert browser.run("return document.querySelectorAll('article').length") == 3
    assert browser.run("return document.querySelectorAll('img').length") == 1
    assert browser.run("return document.querySelector('img').naturalWidth") == 480
    assert browser.run("return getComputedStyle(document.querySelector('img')).objectFit") == "contain"
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.console() == []
    href = browser.run("return document.querySelectorAll('article')[1].querySelector('li a').href")
    assert Path(unquote(href.removeprefix("file://"))).is_file()
