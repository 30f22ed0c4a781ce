"""Studies that really train: failures recorded, kills survived, nothing done twice, everything written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from coop3d.benchmark.study import (
    Stopped,
    Study,
    StudyError,
    StudyRunner,
    collect,
    plan_runs,
    prepare,
    read_study,
    write_study,
)
from coop3d.benchmark.study.runner import locked, peak_memory_kib
from coop3d.benchmark.study.state import RunState, log_records, parameter_counts, tail
from coop3d.training.run import load_run

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "configs" / "studies" / "smoke.yaml"
SCRIPT = ROOT / "scripts" / "run_study.py"
KIB_PER_MIB = 1024


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Overrides that put the smoke study's data into a temporary folder; a town takes seconds, so there are fewer."""
    root = tmp_path_factory.mktemp("study_data")
    return [
        f"machine.opv2v_images_root={root}/opv2v", f"machine.opv2v_depth_root={root}/opv2v_depth",
        "machine.synthetic.scenarios={train:1,validate:1,test:2,test_culver_city:0}",
    ]  # fmt: skip


def two_arms(folder: Path, data: list[str]) -> Study:
    """The smoke study's base arm and one that composes but cannot start, one seed, twelve steps."""
    text = SMOKE.read_text()
    head = text[: text.index("arms:")].replace("seeds: [0, 1]", "seeds: [0]")
    head = re.sub(r"budget: .*", "budget: {steps: 12, validations: 2}", head)
    broken = "  broken: {overrides: [model.model_config.pretrained_checkpoint_path=/nowhere.pth]}\n"
    path = folder / "study.yaml"
    path.write_text(head + "arms:\n  base: {}\n" + broken)
    return read_study(path, data)


class KillAt(threading.Thread):
    """Sends a signal to a training once it has logged a step."""

    def __init__(self, runner: StudyRunner, log: Path, step: int) -> None:
        super().__init__(daemon=True)
        self.runner, self.log, self.step = runner, log, step
        self.start()

    def run(self) -> None:
        while not (self.log.exists() and f'"step": {self.step},' in self.log.read_text()):
            time.sleep(0.01)
        (pid,) = [pid for pid, run in self.runner._active.items() if run.arm == "base"]
        os.kill(pid, signal.SIGKILL)


def test_kills_and_failures(tmp_path, data):
    study = two_arms(tmp_path, data)
    prepare(study)
    base, broken = plan_runs(study, tmp_path / "out")
    runner = StudyRunner(study, tmp_path / "out", jobs=2)
    KillAt(runner, base.train_folder / "log.jsonl", step=3)
    killed, refused = runner([base, broken])
    assert (killed.trained, killed.failures["train"].status) == (False, -signal.SIGKILL)
    assert refused.failures["train"].status == 1
    assert "/nowhere.pth" in refused.failures["train"].lines[-1]
    made = collect(study, tmp_path / "out", [killed, refused])
    text, _ = write_study(made)
    assert "broken/seed0, train: ended with status 1" in text
    assert json.loads((tmp_path / "out" / "study.json").read_text())["results"] == {}

    before = [r["step"] for r in log_records(base, "train")]
    assert before[0] == 1
    assert before[-1] < 12
    (done,) = StudyRunner(study, tmp_path / "out")([base])  # goes on
    assert (done.trained, done.failures, list(done.evaluated)) == (True, {}, ["test"])
    assert "resumed at step" in (base.folder / "train.log").read_text()
    assert [r["step"] for r in log_records(base, "train")] == list(range(1, 13))  # none is logged twice
    assert [a.what for a in done.attempts] == ["train", "train", "evaluate test"]
    assert done.seconds("train") == pytest.approx(done.attempts[0].seconds + done.attempts[1].seconds)
    assert 0.1 < done.peak_memory_gib("train") < 8
    model = load_run(base.train_folder / "checkpoint-last.pth").model
    sizes = [(p.numel() * p.requires_grad, p.numel()) for p in model.parameters()]
    assert parameter_counts(base) == tuple(map(sum, zip(*sizes, strict=True)))

    (again,) = StudyRunner(study, tmp_path / "out")([base])  # has nothing to do
    assert again.attempts == done.attempts
    made = collect(study, tmp_path / "out", [again, RunState.read(broken)])
    assert list(made.outcomes[0].arms) == ["base"]
    assert made.outcomes[0].arms["base"].by_seed[0]["range/abs_rel"] > 0
    assert len(made.failures) == 1

    fewer = replace(study, evaluation=replace(study.evaluation, samples=2))
    (rescored,) = StudyRunner(fewer, tmp_path / "out")([base])  # scored again, not trained again
    assert [a.what for a in rescored.attempts] == ["train", "train", "evaluate test", "evaluate test"]
    made = collect(fewer, tmp_path / "out", [rescored])
    assert made.outcomes[0].contract["samples"] == 2

    moved = read_study(tmp_path / "study.yaml", [*data, "train_params.lr=0.5"])
    with pytest.raises(
        StudyError, match=r"holds a run of other overrides \(then: in another order; now: train_params.lr"
    ):
        StudyRunner(moved, tmp_path / "out")(plan_runs(moved, tmp_path / "out"))


def test_a_stopped_study_saves_and_says_so(tmp_path, data):
    study = two_arms(tmp_path, data)
    prepare(study)
    base = plan_runs(study, tmp_path / "out")[0]
    runner = StudyRunner(study, tmp_path / "out")

    def stop_once_it_trains() -> None:
        while not any(True for _ in log_records(base, "train")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_once_it_trains, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="the same command goes on"):
        runner([base])
    assert signal.getsignal(signal.SIGTERM) is before
    state = RunState.read(base)
    assert (state.trained, state.failures) == (False, {})
    assert state.attempts[-1].status == 0
    assert (base.train_folder / "checkpoint-last.pth").exists()


def test_a_runner_killed_with_its_training_leaves_an_attempt_that_is_closed(tmp_path, data):
    study = two_arms(tmp_path, data)
    base = plan_runs(study, tmp_path / "out")[0]
    state = RunState(run=base)
    state.begin("train")
    (base.folder / "train.log").write_text("half a run\n")
    os.utime(base.folder / "train.log", (time.time() + 90, time.time() + 90))
    left = RunState.read(base)
    assert left.attempts[0].seconds is None
    left.begin("train")
    assert RunState.read(base).attempts[0].seconds == pytest.approx(90, abs=5)


def test_two_calls_do_not_work_in_one_folder(tmp_path, data):
    """Also not while a process is left that inherited the lock."""
    study = two_arms(tmp_path, data)
    with locked(tmp_path / "out" / ".lock") as descriptor:
        orphan = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(descriptor,)
        )
    try:
        with pytest.raises(StudyError, match="another call works here"):
            StudyRunner(study, tmp_path / "out")([])
    finally:
        orphan.communicate(b"\n", timeout=60)
    assert StudyRunner(study, tmp_path / "out")([]) == []


def test_gpus_are_shared_out(tmp_path, data, monkeypatch):
    study = two_arms(tmp_path, data)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    runner = StudyRunner(study, tmp_path, jobs=2, processes=2)
    assert [runner.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)] == ["2,3", "5,7"]
    with pytest.raises(StudyError, match="take 6 GPUs, 4 are visible"):
        StudyRunner(study, tmp_path, jobs=3, processes=2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert StudyRunner(study, tmp_path, jobs=2, processes=2).environment(0)["OMP_NUM_THREADS"] == "2"


def test_peak_memory_is_the_childs_own():
    ballast = bytearray(600 << 20)  # of this process, which a child's wait4 would report
    code = "import time; x = b'x' * (150 << 20); print('there', flush=True); input()"
    parent = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {code!r}]).returncode)"
    command = [sys.executable, "-c", parent]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    peak = peak_memory_kib(process.pid) / KIB_PER_MIB
    process.communicate(b"\n", timeout=60)
    assert 150 < peak < 300
    assert len(ballast) == 600 << 20
    assert peak_memory_kib(process.pid) == 0


def test_the_tail_of_a_log_keeps_the_last_state_of_a_bar(tmp_path):
    (tmp_path / "x.log").write_text("one\n  0%|\r 50%|\r100%|\n\nlast\n")
    assert tail(tmp_path / "x.log") == ("one", "100%|", "last")


@pytest.mark.slow
def test_the_smoke_study_end_to_end(tmp_path, data):
    command = [sys.executable, SCRIPT, f"study={SMOKE}", f"output_dir={tmp_path}", "--jobs", "2", *data]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert "no_wrap" in done.stdout
    content = json.loads((tmp_path / "study.json").read_text())
    assert [(r["arm"], r["seed"], r["trained"]) for r in content["runs"]] == [
        ("base", 0, True), ("no_wrap", 0, True), ("base", 1, True), ("no_wrap", 1, True),
    ]  # fmt: skip
    arms = content["results"]["test"]["arms"]
    seeds = arms["base"]["scores"]["range/abs_rel"]["by_seed"]
    assert arms["base"]["scores"]["range/abs_rel"]["value"] == pytest.approx((seeds["0"] + seeds["1"]) / 2)
    assert seeds["0"] != seeds["1"]
    for seed, value in seeds.items():
        folder = tmp_path / "runs" / "base" / f"seed{seed}" / "evaluation" / "test"
        assert json.loads((folder / "summary.json").read_text())["range/abs_rel"] == pytest.approx(value)
    for name in ("study.csv", "table.txt", "table.md", "study.html", "curves.png", "forest_test.png"):
        assert (tmp_path / name).stat().st_size > 0
    attempts = [r["attempts"] for r in content["runs"]]
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0
    assert [r["attempts"] for r in json.loads((tmp_path / "study.json").read_text())["runs"]] == attempts
