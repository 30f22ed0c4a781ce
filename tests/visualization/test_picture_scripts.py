"""The scripts end to end: on a small OPV2V folder and on a toy run's checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from support.opv2v_files import write_dataset
from support.scripts import run_script
from support.toy_run import make_trainer

from coop3d.conf import compose
from coop3d.training.launch import plain
from coop3d.visualization import write_video


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


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> tuple[Path, Path]:
    """A test split of one scenario of three frames."""
    return write_dataset(tmp_path_factory.mktemp("drive"), split="test", frames=3)


@pytest.fixture(scope="module")
def street_run(tmp_path_factory, drive) -> Path:
    """A toy model's run on panoramas of the drive."""
    run_dir = tmp_path_factory.mktemp("street_run")
    trainer = make_trainer(run_dir, epochs=1)
    config = compose("train", street_overrides(drive))
    config.model = {"_target_": "support.toy_run.ToyModel"}
    trainer.config = plain(config)
    trainer.fit()
    return run_dir


def street_overrides(drive: tuple[Path, Path]) -> list[str]:
    return [
        "machine=demo", "machine.synthetic=null", f"machine.opv2v_images_root={drive[0]}",
        f"machine.opv2v_depth_root={drive[1]}", "dataset=opv2v_cyl_coop_demo", "dataset.camera.width=128",
        "dataset.camera.height=32",
    ]  # fmt: skip


def test_preview_writes_a_picture_per_frame_and_a_contact_sheet(tmp_path, roots):
    images, depth = roots
    folder = tmp_path / "previews"
    run_script("opv2v_panorama_preview.py", "--images-root", images, "--depth-root", depth,
               "--max-frames", 2, "--width", 128, "--output-dir", folder)  # fmt: skip
    files = sorted(folder.iterdir())
    assert len(files) == 3
    assert files[-1].name == "contact_sheet.png"
    assert all(cv2.imread(str(f)) is not None for f in files)


def spoil(images: Path, split: str, agent: str, frame: str) -> None:
    """Cut one photograph short."""
    (path,) = images.glob(f"{split}/*/{agent}/{frame}_camera1.png")
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("video", [(), ("--video", "drive.gif")])
def test_previews_of_the_other_frames_are_drawn(tmp_path, caplog, video):
    images, _ = write_dataset(tmp_path / "data", frames=2)
    spoil(images, "train", "105", "000070")
    command = ("opv2v_panorama_preview.py", "--images-root", images, "--width", 128, *video, "--output-dir")
    run_script(*command, tmp_path / "a", status=3)
    names = {p.name[20:] for p in (tmp_path / "a").glob("2021*.png")}
    assert names == (set() if video else {"105_000068.png", "205_000068.png", "205_000070.png"})
    assert (tmp_path / "a" / ("drive.gif" if video else "contact_sheet.png")).exists()
    assert re.search(r"000070_camera1\.png: .* move the frame's \.yaml away", caplog.text)
    assert "1 of 4 frames could not be used" in caplog.text
    only = ("--agent", 105, "--frame", "000070")
    assert "none of the 1 frames can be used" in run_script(*command, tmp_path / "b", *only, status=1).stderr
    assert not list(tmp_path.glob("b/*"))


def test_a_scenario_page_leaves_unreadable_samples_out(tmp_path, caplog, street_run):
    images, depth = write_dataset(tmp_path / "data", split="test", frames=3)
    spoil(images, "test", "205", "000070")
    page = tmp_path / "scenario.html"
    command = ("render_scenario_html.py", "--checkpoint", street_run, "--cpu", "--output-html", page,
               "--override", f"machine.opv2v_images_root={images}",
               "--override", f"machine.opv2v_depth_root={depth}")  # fmt: skip
    run_script(*command, status=3)
    text = page.read_text(encoding="utf-8")
    assert "2 frames, 1 left out as unreadable" in text
    assert '"name":"000070"' not in text
    assert "1 of 3 samples could not be read" in caplog.text
    for frame in ("000068", "000072"):
        spoil(images, "test", "205", frame)
    page.unlink()
    assert "none of its 3 samples can be read" in run_script(*command, status=1).stderr
    assert not page.exists()


def test_panorama_page_of_an_indexed_frame(tmp_path, roots):
    page = tmp_path / "panorama.html"
    for projection in ("equirectangular", "cylindrical"):
        run_script("visualize_opv2v_cyl_html.py", "--images-root", roots[0], "--depth-root", roots[1],
                   "--index", 1, "--width", 128, "--projection", projection, "--output-html", page)  # fmt: skip
        assert projection in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["opv2v_panorama_preview.py", "visualize_opv2v_cyl_html.py"])
def test_wrong_input_is_one_clear_line(tmp_path, roots, script):
    output = {"opv2v_panorama_preview.py": "--output-dir", "visualize_opv2v_cyl_html.py": "--output-html"}[
        script
    ]
    for images_root, more, message in (
        (roots[0], ["--index", 99], "index 99 is outside"),
        (roots[0], ["--agent", "nobody"], "no frame matches"),
        (tmp_path / "nowhere", [], "nowhere"),
    ):
        command = (script, "--images-root", images_root, *more, output, tmp_path / "out")
        assert message in run_script(*command, status=1).stderr


@pytest.mark.parametrize(
    ("script", "options", "output", "written"),
    [
        ("visualize_opv2v_cyl_html.py", ("--index", 0), "--output-html", "a.html"),
        ("opv2v_panorama_preview.py", ("--index", 0), "--output-dir", "2021_08_20_21_10_00_105_000068.png"),
        ("opv2v_panorama_preview.py", ("--index", 0, "--video", "a.mp4"), "--output-dir", "a.mp4"),
    ],
)
def test_what_cannot_be_written_is_one_clear_line(tmp_path, roots, script, options, output, written):
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / written
    where = path if output == "--output-html" else path.parent
    said = run_script(script, "--images-root", roots[0], "--width", 128, *options, output, where, status=1)
    line = said.stderr.splitlines()[-1]
    assert f"cannot write {path} (" in line
    assert f"choose another {output}" in line


def test_pointcloud_page_of_a_trained_run(tmp_path, run_dir):
    page, png = tmp_path / "out" / "scene.html", tmp_path / "out" / "scene.png"
    run_script("render_pointcloud_html.py", "--checkpoint", run_dir, "--index", 2, "--cpu",
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
def test_pointcloud_page_refuses_what_is_not_there(tmp_path, run_dir, options, message):
    command = ("render_pointcloud_html.py", "--checkpoint", run_dir, "--cpu", *options)
    assert message in run_script(*command, "--output-html", tmp_path / "scene.html", status=1).stderr
    assert list(tmp_path.iterdir()) == []


def test_one_folder_holds_everything_about_a_sample(tmp_path, street_run):
    views = tmp_path / "2021_08_20_21_10_00_000070_105_views"
    views.mkdir()
    (views / "2_gone_mask.png").write_text("of a third vehicle, drawn before")
    (views / "2_gone.txt").write_text("somebody's")
    run_script("render_pointcloud_html.py", "--checkpoint", street_run, "--val-index", 1, "--cpu",
               "--output-dir", tmp_path, "--max-points", 3000,
               "--export", "ply", "pcd", "glb", "colmap", "npz")  # fmt: skip
    stem = "2021_08_20_21_10_00_000070_105"
    names = {p.name.removeprefix(stem) for p in tmp_path.iterdir()}
    assert names == {".html", "_oblique.png", "_top.png", "_summary.json", "_views", ".ply", ".pcd", ".glb", ".npz",
                     "_colmap"}  # fmt: skip
    pictures = {p.name for p in views.glob("*.png")}
    assert (views / "2_gone.txt").exists()
    kinds = ("colour", "range_pred", "range_gt", "range_error", "mask")
    assert pictures == {f"{v}_{agent}_{kind}.png" for v, agent in enumerate(("105", "205")) for kind in kinds}
    widths = {k: cv2.imread(str(views / f"0_105_{k}.png")).shape[1] for k in kinds}
    assert widths == {
        "colour": 128,
        "range_pred": 214,
        "range_gt": 214,
        "range_error": 214,
        "mask": 128,
    }  # + bar
    summary = json.loads((tmp_path / f"{stem}_summary.json").read_text())
    assert (summary["index"], summary["step"], summary["pred_scale"]) == (1, 4, 1.0)
    assert summary["pose_translation_error_m"] > 0
    run_script("make_gallery.py", tmp_path.parent)
    assert "predicted / true scale" in (tmp_path.parent / "index.html").read_text(encoding="utf-8")


def test_sources_change_the_points(tmp_path, street_run):
    errors = {}
    for pose in ("pred", "gt"):
        path = tmp_path / f"{pose}.json"
        run_script("render_pointcloud_html.py", "--checkpoint", street_run, "--cpu",
                   "--output-html", tmp_path / "a.html", "--debug-summary-json", path, "--point-pose-source", pose,
                   "--point-depth-source", "gt_dense")  # fmt: skip
        errors[pose] = json.loads(path.read_text())["pose_translation_error_m"]
    assert errors["pred"] > 1
    assert errors["gt"] == pytest.approx(0, abs=1e-4)
    assert "pose gt, depth gt_dense, scale pred" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_truth_alone_needs_no_checkpoint(tmp_path, drive):
    overrides = [x for o in street_overrides(drive) for x in ("--override", o)]
    run_script("render_pointcloud_html.py", "--config", "configs/train.yaml", *overrides,
               "--output-dir", tmp_path, "--view-output-dir", tmp_path / "v", "--no-lidar")  # fmt: skip
    assert {p.name[6:] for p in (tmp_path / "v").iterdir()} == {"colour.png", "range_gt.png"}
    (summary,) = tmp_path.glob("*_summary.json")
    assert json.loads(summary.read_text())["pred_scale"] is None


def test_files_without_truth(tmp_path, street_run, drive):
    frames = sorted((drive[0] / "test").rglob("000068.yaml"))
    picture = tmp_path / "car 1.png"
    cv2.imwrite(str(picture), np.full((64, 256, 3), 120, np.uint8))
    for data in (frames, [picture, picture]):
        summary = tmp_path / "summary.json"
        run_script("render_pointcloud_html.py", "--checkpoint", street_run, "--cpu", "--data", *data,
                   "--output-html", tmp_path / "a.html", "--debug-summary-json", summary)  # fmt: skip
        found = json.loads(summary.read_text())
        assert found["gt_scale"] is None
        assert len(found["views"]) == 2
        assert found["views"][1]["depth_pred_m"]["count"] == 128 * 32


def test_frames_of_several_instants_or_one_vehicle_twice_are_refused(tmp_path, street_run, drive):
    first, other = (drive[0] / "test" / "2021_08_20_21_10_00" / agent for agent in ("105", "205"))
    for data, message in (
        ((first / "000068.yaml", other / "000070.yaml"), "frame 000070; expected .* frame 000068"),
        ((first / "000068.yaml", first / "000068.yaml"), "vehicle 105 is given twice"),
    ):
        command = ("render_pointcloud_html.py", "--checkpoint", street_run, "--cpu", "--data", *data)
        said = run_script(*command, "--output-html", tmp_path / "a.html", status=1).stderr
        assert re.search(message, said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ((), ()),
        (("--depth-source", "none"), ()),  # where range comes from does not matter to a prediction
        (("--width", 256, "--height", 64), ("width: found 256, wanted 128", "height: found 64, wanted 32")),
        (("--kind", "central"), ("kind: found 'central', wanted 'rig'",)),
        (("--projection", "cylindrical", "--vertical-fov-deg", 60),
         ("projection: found 'cylindrical'", "vertical_fov_deg: found 60.0, wanted 90.0")),
    ],
)  # fmt: skip
def test_a_cache_must_hold_the_models_panoramas(tmp_path, street_run, drive, options, changed):
    cache, page = tmp_path / "test.h5", tmp_path / "a.html"
    run_script("build_panorama_cache.py", "--images-root", drive[0], "--depth-root", drive[1], "--split", "test",
               "--width", 128, "--height", 32, *options, "--workers", 1, "--output", cache)  # fmt: skip
    command = (
        "render_pointcloud_html.py",
        "--checkpoint",
        street_run,
        "--cpu",
        "--data",
        cache,
        "--index",
        1,
    )
    said = run_script(*command, "--output-html", page, status=1 if changed else 0).stderr
    assert all(text in said for text in changed)
    assert page.exists() == (not changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --checkpoint"),
        (["--data", "{tmp}/a.png"], "needs a --checkpoint"),
        (["--checkpoint", "{run}", "--data", "{tmp}/nothing.png"], "no such file: .*nothing.png"),
        (["--checkpoint", "{run}", "--data", "{tmp}/square.png"], "square.png: the picture is 64 x 64"),
        (["--checkpoint", "{run}", "--data", "{tmp}/text.txt"], r"found endings \.txt"),
        (
            ["--checkpoint", "{run}", "--data", "{tmp}/square.png", "--point-pose-source", "gt"],
            "leave --point",
        ),
        (["--checkpoint", "{toy}", "--data", "{tmp}/square.png"], "no dataset.camera"),
        (["--checkpoint", "{toy}", "--point-pose-source", "input"], "no reported poses"),
        (["--checkpoint", "{toy}", "--point-depth-source", "gt_sparse"], "no dataset.depth_source"),
        (["--checkpoint", "{run}", "--index", "3"], "outside the 3 samples"),
        (["--checkpoint", "{run}", "--max-points", "0"], "max_points is 0"),
        (["--checkpoint", "{tmp}/none.pth"], "none.pth"),
    ],
)
def test_wrong_input_of_the_3d_page_is_one_clear_line(tmp_path, street_run, run_dir, options, message):
    (tmp_path / "text.txt").write_text("hello")
    cv2.imwrite(str(tmp_path / "square.png"), np.zeros((64, 64, 3), np.uint8))
    options = [o.format(tmp=tmp_path, run=street_run, toy=run_dir) for o in options]
    command = ("render_pointcloud_html.py", *options, "--cpu", "--output-dir", tmp_path / "out")
    (line,) = run_script(*command, status=1).stderr.splitlines()
    assert re.search(message, line)
    assert not (tmp_path / "out").exists()


def test_scenario_page_and_video(tmp_path, street_run):
    page, video = tmp_path / "a" / "scenario.html", tmp_path / "a" / "scenario.gif"
    run_script("render_scenario_html.py", "--checkpoint", street_run, "--cpu", "--output-html", page,
               "--video", video, "--max-points", 3000, "--stride", 2)  # fmt: skip
    text = page.read_text(encoding="utf-8")
    assert "2 frames" in text
    assert '"name":"000072"' in text
    with Image.open(video) as gif:
        assert gif.n_frames == 2
    command = ("render_scenario_html.py", "--checkpoint", street_run, "--cpu", "--scenario", "x")
    assert "no sample of scenario 'x'" in run_script(*command, status=1).stderr


@pytest.mark.parametrize(
    "script",
    [
        "opv2v_panorama_preview.py", "visualize_opv2v_cyl_html.py", "render_pointcloud_html.py",
        "render_scenario_html.py", "make_gallery.py",
    ],
)  # fmt: skip
def test_help_shows_examples(script):
    assert f"python scripts/{script}" in run_script(script, "--help").stdout


@pytest.mark.parametrize("name", ["drive.mp4", "drive.gif"])
def test_preview_video_plays_every_frame_once(tmp_path, roots, name):
    images, depth = roots
    run_script("opv2v_panorama_preview.py", "--images-root", images, "--depth-root", depth,
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
    with pytest.raises(ValueError, match=r"/drive\.mp4: no frame"):
        write_video(tmp_path / "drive.mp4", [])
    for fps in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"/drive\.gif: fps is .*, expected a number above 0"):
            write_video(tmp_path / "drive.gif", [frame], fps)
    with pytest.raises(ValueError, match="cannot share a video"):
        write_video(tmp_path / "drive.gif", [frame, frame[:4]])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["opv2v_panorama_preview.py", "render_scenario_html.py"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--video", "drive.avi"), "'drive.avi', expected a name that ends in .mp4 or .gif"),
        (("--fps", "0"), "'0', expected a number of frames per second above 0"),
        (("--fps", "nan"), "'nan', expected a number"),
        (("--fps", "fast"), "'fast', expected a number"),
    ],
)
def test_options_of_a_video_are_checked_before_any_work(script, options, message):
    said = run_script(script, *options, status=2).stderr  # needs neither data nor a checkpoint to say so
    assert f"argument {options[0]}: found {message}" in said


def test_kinds_and_projections_reach_the_page(tmp_path, roots):
    page = tmp_path / "panorama.html"
    run_script("visualize_opv2v_cyl_html.py", "--images-root", roots[0], "--depth-root", roots[1],
               "--index", 0, "--width", 128, "--kind", "central", "--exposure", "matched",
               "--output-html", page)  # fmt: skip
    assert "central, 128 x 32" in page.read_text(encoding="utf-8")
