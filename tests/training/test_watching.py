"""What a run writes about itself: scalars, pictures, throughput; the teacher that a student watches."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from support.toy_run import ToyModel, make_trainer, records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coop3d.conf import ConfigError
from coop3d.losses import DistillationTerm, MetricRangeTerm, WeightedSum
from coop3d.training import interval
from coop3d.training.interval import Interval, peak_tflops
from coop3d.training.run_log import HEADLINES, RunLog, console_table, headlines
from coop3d.training.step import StepResult
from coop3d.training.teacher import build_teacher
from coop3d.training.validation import metric_names


def test_tensorboard_has_the_scalars_of_the_log_and_a_picture_per_epoch(toy_run):
    board = EventAccumulator(str(toy_run / "tensorboard"), {"images": 0, "scalars": 0})
    board.Reload()
    train = records(toy_run, "train")
    assert [e.step for e in board.Scalars("train/loss")] == [r["step"] for r in train]
    assert [e.value for e in board.Scalars("train/loss")] == pytest.approx([r["loss"] for r in train])
    assert [e.step for e in board.Images("val/first_sample")] == [4, 8, 12]


def test_every_step_has_throughput_and_operations(toy_run):
    for record in records(toy_run, "train"):
        assert record["seconds_per_step"] > 0
        assert 0 <= record["data_wait"] <= 1
        assert record["tflops_per_process"] > 0
        assert "mfu" not in record  # nobody knows a CPU's peak


def test_mfu_is_the_share_of_the_cards_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA GeForce RTX 3090")
    assert peak_tflops(torch.device("cuda", 0)) == 71.0
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 PCIe")
    assert peak_tflops(torch.device("cuda", 0)) == 756.0
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Unheard Of")
    assert peak_tflops(torch.device("cuda", 0)) is None
    assert peak_tflops(torch.device("cpu")) is None
    monkeypatch.setattr(interval, "peak_tflops", lambda _: 50.0)
    monkeypatch.setattr(interval.time, "perf_counter", lambda: 12.0)
    watched = Interval(started=10.0)  # two seconds
    watched.account(StepResult(1.0, 2.0), samples=8, flops=80e12)
    alone = SimpleNamespace(world_size=4, device=torch.device("cpu"))
    values = watched.values(StepResult(1.0, 2.0), {"total": 1.0}, alone)
    assert values["tflops_per_process"] == pytest.approx(10.0)  # 80 in 2 s on 4
    assert values["mfu"] == pytest.approx(0.2)
    assert values["samples_per_s"] == pytest.approx(4.0)


def test_console_table_reads_down_its_columns():
    table = console_table({f"m{i}": float(i) for i in range(4)}, columns=2).splitlines()
    assert [row.split() for row in table] == [["m0", "0", "m2", "2"], ["m1", "1", "m3", "3"]]


def test_the_console_shows_a_dozen_scores_by_their_whole_names():
    assert set(HEADLINES) <= metric_names()
    everything = dict.fromkeys([*sorted(metric_names()), "loss", "loss/pose"], 1.0)
    shown = headlines(everything)
    assert list(shown)[:2] == ["loss", "loss/pose"]
    assert len(shown) == 2 + len(HEADLINES) < 16
    table = console_table(shown)
    assert all(f"{name} " in table for name in shown)
    assert headlines({"loss": 1.0, "range/rmse_m": 2.0}) == {"loss": 1.0}


def test_wandb_is_asked_for_by_name_and_gets_the_scalars(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"train_params\.wandb_project=x, but wandb is not installed"):
        RunLog(tmp_path, True, 0, "x")
    sent, ids = [], []
    run = SimpleNamespace(
        log=lambda values, step: sent.append((step, values)), finish=lambda: sent.append("end")
    )
    monkeypatch.setitem(
        sys.modules, "wandb", SimpleNamespace(init=lambda **how: ids.append(how["id"]) or run)
    )
    log = RunLog(tmp_path, True, 0, "x")
    log.write("train", 3, {"loss": 1.0, "note": "text"})
    log.close()
    assert sent == [(3, {"train/loss": 1.0}), "end"]
    RunLog(tmp_path, True, 3, "x").close()  # resumed
    (tmp_path / "other" / tmp_path.name).mkdir(parents=True)
    RunLog(tmp_path / "other" / tmp_path.name, True, 0, "x").close()
    assert ids[0] == ids[1] != ids[2]


# ---- teacher


def student_loss() -> WeightedSum:
    return WeightedSum({"range": MetricRangeTerm(), "teacher": DistillationTerm(weight=0.5)})


def test_a_student_learns_from_a_frozen_teacher(toy_run, tmp_path):
    cfg = OmegaConf.create({"train_params": {"teacher": str(toy_run)}})
    teacher = build_teacher(cfg, student_loss())
    assert isinstance(teacher, ToyModel)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    trainer = make_trainer(tmp_path)
    trainer.task = replace(trainer.task, loss_function=student_loss())
    trainer.teacher = teacher
    trainer.fit()
    distances = [r["loss/teacher/translation"] for r in records(tmp_path, "train")]
    assert distances[-1] < distances[0]
    assert "loss/teacher" in records(tmp_path, "val")[0]
    assert not teacher.training
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_a_student_equal_to_its_teacher_has_no_teacher_loss(toy_run, tmp_path):
    cfg = OmegaConf.create({"train_params": {"teacher": str(toy_run)}})
    trainer = make_trainer(tmp_path, lr=0.0)
    trainer.teacher = build_teacher(cfg, student_loss())
    trainer.task = replace(trainer.task, loss_function=student_loss())
    trainer.model.load_state_dict(trainer.teacher.state_dict())
    trainer.fit()
    assert records(tmp_path, "train")[0]["loss/teacher"] == pytest.approx(0.0, abs=1e-6)


def test_missing_and_idle_teachers_are_named(toy_run, tmp_path, caplog):
    cfg = OmegaConf.create({"train_params": {"teacher": None}})
    with pytest.raises(ConfigError, match=r"loss\.terms\.teacher needs a teacher: train_params\.teacher="):
        build_teacher(cfg, student_loss())
    cfg.train_params.teacher = str(tmp_path / "none.pth")
    with pytest.raises(ConfigError, match=r"train_params\.teacher: .*none\.pth: no such checkpoint"):
        build_teacher(cfg, student_loss())
    with caplog.at_level(logging.WARNING):
        assert build_teacher(cfg, WeightedSum({"range": MetricRangeTerm()})) is None
    assert "is not used" in caplog.text
