"""Learning curves: what is drawn is what the log says."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.scripts import run_script

from coop3d.benchmark import training_curves
from coop3d.benchmark.training_curves import plot_training


def make_run(folder: Path, scale: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    records = [{"kind": "train", "step": s, "loss": scale / s, "lr/rest": 0.1} for s in (10, 20, 30)]
    records += [{"kind": "val", "step": 30, "loss": 2 * scale, "range/abs_rel": 0.25 * scale}]
    lines = [json.dumps(r) for r in records]
    (folder / "log.jsonl").write_text("\n".join([*lines, '{"kind": "val", "st']))  # torn by a kill
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """(key, label, x, y) of every line of the figures made meanwhile."""
    found = []
    original = training_curves.to_png

    def spy(fig):
        for ax in fig.axes:
            found.extend(
                (ax.get_title(loc="left"), line.get_label(), list(line.get_xdata()), list(line.get_ydata()))
                for line in ax.lines
            )
        return original(fig)

    monkeypatch.setattr(training_curves, "to_png", spy)
    return found


def test_training_and_validation_of_every_run_are_drawn(tmp_path, drawn):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", 3.0)
    out = tmp_path / "curves.png"
    assert plot_training([a, b], out) == ("loss", "range/abs_rel")
    picture = cv2.imread(str(out))
    assert picture is not None
    assert picture.std() > 5
    loss = [(x, y) for title, _, x, y in drawn if title == "loss"]
    assert loss[0] == ([10, 20, 30], pytest.approx([0.1, 0.05, 1 / 30]))
    assert loss[1] == ([30], [2.0])
    assert loss[3] == ([30], [6.0])
    assert [(label, y) for title, label, _, y in drawn if title == "range, AbsRel"] == [
        ("a", [0.25]), ("b", [0.75])
    ]  # fmt: skip


def test_runs_of_one_name_are_told_apart(tmp_path, monkeypatch):
    """As of the quickstart and of studies, whose runs are all called train; one has not been validated yet."""
    figures = []
    monkeypatch.setattr(training_curves, "to_png", lambda fig: figures.append(fig) or b"")
    runs = [make_run(tmp_path / name / "train") for name in ("base", "other")]
    log = runs[1] / "log.jsonl"
    log.write_text("\n".join(log.read_text().splitlines()[:3]))
    plot_training(runs, tmp_path / "curves.png")
    (figure,) = figures
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["base", "other"]
    assert all(ax.get_xlim() == pytest.approx((0, 30.9)) for ax in figure.axes)  # panels share their steps
    with pytest.raises(ValueError, match="given twice"):
        plot_training([runs[0], runs[0]], tmp_path / "x.png")


def test_any_metric_of_the_log_can_be_asked_for(tmp_path, drawn):
    run = make_run(tmp_path / "run")
    assert plot_training([run], tmp_path / "x.png", ["lr/rest"]) == ("lr/rest",)
    assert [y for *_, y in drawn] == [[0.1, 0.1, 0.1]]


def test_errors_name_the_file_and_what_there_is(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"elsewhere/log\.jsonl: no records"):
        plot_training([run, tmp_path / "elsewhere"], tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"no run has mask/iou; there are: loss, lr/rest, range/abs_rel"):
        plot_training([run], tmp_path / "x.png", ["mask/iou"])
    assert not (tmp_path / "x.png").exists()


def test_the_script_writes_into_the_run_unless_told_otherwise(tmp_path):
    run = make_run(tmp_path / "run")
    run_script("plot_training.py", run)
    assert np.ptp(cv2.imread(str(run / "curves.png"))) > 0
    assert "log.jsonl: no records" in run_script("plot_training.py", tmp_path, status=1).stderr
