"""The scripts end to end: on a small OPV2V folder and on a toy run's checkpoint."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from support.opv2v_files import write_dataset
from support.toy_run import make_trainer

from coop3d.training.launch import plain
from coop3d.visualization import write_video

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> tuple[Path, Path]:
    return write_dataset(tmp_path_factory.mktemp("opv2v"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    trainer = make_trainer(run_dir, epochs=1)
    dataset = {"_target_": "support.toy_run.ToyDataset", "size": 6, "bad": [3]}
    config = {
        "machine": {"opv2v_images_root": None, "opv2v_depth_root": None},
        "model": {"_target_": "support.toy_run.ToyModel"},
        "dataset": {"train": dataset, "val": dataset, "test": dataset},
        "train_params": {"precision": "auto", "tf32": False},
    }
    trainer.config = plain(OmegaConf.create(config))
    trainer.fit()
    return run_dir


def test_preview_writes_a_picture_per_frame_and_a_contact_sheet(monkeypatch, tmp_path, roots):
    images, depth = roots
    folder = tmp_path / "previews"
    run_script(monkeypatch, "opv2v_panorama_preview.py", "--images-root", images, "--depth-root", depth,
               "--max-frames", 2, "--width", 128, "--output-dir", folder)  # fmt: skip
    files = sorted(folder.iterdir())
    assert len(files) == 3
    assert files[-1].name == "contact_sheet.png"
    assert all(cv2.imread(str(f)) is not None for f in files)


def test_panorama_page_of_an_indexed_frame(monkeypatch, tmp_path, roots):
    page = tmp_path / "panorama.html"
    for projection in ("equirectangular", "cylindrical"):
        run_script(monkeypatch, "visualize_opv2v_cyl_html.py", "--images-root", roots[0], "--depth-root", roots[1],
                   "--index", 1, "--width", 128, "--projection", projection, "--output-html", page)  # fmt: skip
        assert projection in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["opv2v_panorama_preview.py", "visualize_opv2v_cyl_html.py"])
def test_wrong_input_is_one_clear_line(monkeypatch, tmp_path, roots, script):
    output = {"opv2v_panorama_preview.py": "--output-dir", "visualize_opv2v_cyl_html.py": "--output-html"}[
        script
    ]
    for images_root, more, message in (
        (roots[0], ["--index", 99], "index 99 is outside"),
        (roots[0], ["--agent", "nobody"], "no frame matches"),
        (tmp_path / "nowhere", [], "nowhere"),
    ):
        with pytest.raises(SystemExit, match=message):
            run_script(monkeypatch, script, "--images-root", images_root, *more, output, tmp_path / "out")


def test_pointcloud_page_of_a_trained_run(monkeypatch, tmp_path, run_dir):
    page, png = tmp_path / "out" / "scene.html", tmp_path / "out" / "scene.png"
    run_script(monkeypatch, "render_pointcloud_html.py", "--checkpoint", run_dir, "--index", 2, "--cpu",
               "--output-html", page, "--output-png", png, "--max-points", 500)  # fmt: skip
    text = page.read_text(encoding="utf-8")
    assert "town / 000002" in text
    assert "translation error [m]" in text
    assert "mask IoU" in text
    assert cv2.imread(str(png)).shape[0] > 640  # panels above the rendered cloud


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--index", "6"], "outside the 6 samples"),
        (["--index", "3"], "cannot be read"),
        (["--split", "tets"], "tets"),
    ],
)
def test_pointcloud_page_refuses_what_is_not_there(monkeypatch, tmp_path, run_dir, options, message):
    with pytest.raises(SystemExit, match=message):
        run_script(monkeypatch, "render_pointcloud_html.py", "--checkpoint", run_dir, "--cpu", *options,
                   "--output-html", tmp_path / "scene.html")  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "script", ["opv2v_panorama_preview.py", "visualize_opv2v_cyl_html.py", "render_pointcloud_html.py"]
)
def test_help_shows_examples(monkeypatch, capsys, script):
    with pytest.raises(SystemExit) as stop:
        run_script(monkeypatch, script, "--help")
    assert stop.value.code == 0
    assert f"python scripts/{script}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["drive.mp4", "drive.gif"])
def test_preview_video_plays_every_frame_once(monkeypatch, tmp_path, roots, name):
    images, depth = roots
    run_script(monkeypatch, "opv2v_panorama_preview.py", "--images-root", images, "--depth-root", depth,
               "--max-frames", 3, "--width", 128, "--video", name, "--output-dir", tmp_path)  # fmt: skip
    frames = 0
    if name.endswith(".gif"):
        with Image.open(tmp_path / name) as gif:
            frames = gif.n_frames
    else:
        video = cv2.VideoCapture(str(tmp_path / name))
        while video.read()[0]:
            frames += 1
    assert frames == 3
    assert [p.name for p in tmp_path.iterdir()] == [name]  # nothing temporary is left


def test_a_video_of_another_kind_is_refused(tmp_path):
    frame = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"ends in one of .* found '.avi'"):
        write_video(tmp_path / "drive.avi", [frame])
    with pytest.raises(ValueError, match="no frame"):
        write_video(tmp_path / "drive.mp4", [])
    with pytest.raises(ValueError, match="cannot share a video"):
        write_video(tmp_path / "drive.gif", [frame, frame[:4]])
    assert not list(tmp_path.iterdir())


def test_kinds_and_projections_reach_the_page(monkeypatch, tmp_path, roots):
    page = tmp_path / "panorama.html"
    run_script(monkeypatch, "visualize_opv2v_cyl_html.py", "--images-root", roots[0], "--depth-root", roots[1],
               "--index", 0, "--width", 128, "--kind", "central", "--exposure", "matched",
               "--output-html", page)  # fmt: skip
    assert "central, 128 x 32" in page.read_text(encoding="utf-8")
