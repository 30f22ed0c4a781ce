"""Runs that are killed, stopped or run out of disk go on with the same bits; a stop is no failure."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from support.toy_run import ALONE, ToyDataset, make_trainer

from coop3d.training import launch, torchrun
from coop3d.training.checkpoint import LAST, CheckpointWriteError, load_checkpoint
from coop3d.training.signals import StopRequest
from coop3d.training.trainer import Outcome

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {"dropout": 0.3, "epochs": 6, "ema_decay": 0.9, "checkpoint_every_steps": 1}


def series(run_dir: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [(r["kind"], r["step"], r["loss"]) for r in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[tuple]:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    make_trainer(run_dir, **OPTIONS).fit()
    return series(run_dir)


def _train(run_dir: Path) -> None:
    torch.set_num_threads(1)  # as tests/conftest.py does: another number of threads adds in another order
    make_trainer(run_dir, **OPTIONS).fit()


def test_kill_9_again_and_again_changes_no_bit(undisturbed, tmp_path):
    """Some milliseconds after a checkpoint: in the middle of a step, of a validation or of the next checkpoint."""
    context, last = multiprocessing.get_context("fork"), tmp_path / LAST
    steps = []
    for attempt in range(8):
        before = last.stat().st_ino if last.exists() else None
        process = context.Process(target=_train, args=(tmp_path,))
        process.start()
        while process.is_alive() and (not last.exists() or last.stat().st_ino == before):
            time.sleep(0.001)
        time.sleep(0.003 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        steps.append(load_checkpoint(last)["step"])
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[3]
    make_trainer(tmp_path, **OPTIONS).fit()
    assert series(tmp_path) == undisturbed


def test_a_full_disk_stops_by_name_and_keeps_the_last_checkpoint(undisturbed, tmp_path, monkeypatch):
    real, written = os.fsync, []

    def full(descriptor):
        written.append(descriptor)
        if len(written) == 10:  # in the middle of a checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointWriteError, match=r"No space left.* GiB free there.*same hydra\.run\.dir"):
        make_trainer(tmp_path, **OPTIONS).fit()
    assert load_checkpoint(tmp_path / LAST)["step"] > 0
    assert not list(tmp_path.glob(".*.tmp"))
    make_trainer(tmp_path, **OPTIONS).fit()
    assert series(tmp_path) == undisturbed


def test_sigterm_and_sharding_keep_the_moving_average(undisturbed, tmp_path):
    dataset = ToyDataset()
    dataset.sigterm_at = (2, 5)
    assert make_trainer(tmp_path, dataset, **OPTIONS).fit() is Outcome.stopped
    make_trainer(tmp_path, **OPTIONS).fit()
    assert series(tmp_path) == undisturbed


def test_the_moving_average_is_that_of_the_weights(tmp_path):
    trainer = make_trainer(tmp_path, epochs=1, ema_decay=0.5)
    start = trainer.model.head.weight.detach().clone()
    seen = [start]
    step = trainer.optimizer.step

    def recorded(*arguments):
        step(*arguments)
        seen.append(trainer.model.head.weight.detach().clone())

    trainer.optimizer.step = recorded
    trainer.fit()
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.5 * expected + 0.5 * weight
    state = load_checkpoint(tmp_path / LAST)
    torch.testing.assert_close(state["ema"]["head.weight"], expected)
    torch.testing.assert_close(state["model"]["head.weight"], seen[-1])


SCRIPT = """
import os, sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from support.toy_run import make_trainer
from coop3d.conf import DistributedConf, Strategy
from coop3d.training.distributed import processes
with processes(DistributedConf(strategy=Strategy.ddp, device="cpu")) as me:
    print(make_trainer(Path({run_dir!r}), processes=me, num_workers=1, epochs=100000).fit(), flush=True)
"""


def test_the_launcher_takes_every_stop_signal_as_one(monkeypatch):
    """Slurm's SIGUSR1, too, with which the test below would do the same again."""
    stops = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before, during = [signal.getsignal(n) for n in stops], []
    monkeypatch.setattr("torch.distributed.run.main", lambda _: during.extend(map(signal.getsignal, stops)))
    monkeypatch.setattr(sys, "argv", ["torchrun", "script.py"])
    try:
        as_from_a_terminal()
        torchrun.main()
    finally:
        for number, handler in zip(stops, before, strict=True):
            signal.signal(number, handler)
    assert during[:2] == [torchrun._pass_on] * 2
    assert isinstance(during[2], torchrun._Interrupt)


LAUNCHER = ("-m", "coop3d.training.torchrun", "--standalone", "--nproc-per-node", "2")


def stopped_by(number: signal.Signals, folder: Path, launcher: tuple[str, ...]) -> tuple[int, str]:
    """Status and output of a toy run whose process group gets a signal, as from a terminal, after some steps."""
    script = folder / "toy.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests"), run_dir=str(folder / "run")))
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *launcher, str(script)], env=environment, stdout=output, stderr=subprocess.STDOUT,
            cwd=ROOT, start_new_session=True, preexec_fn=as_from_a_terminal,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 200  # seconds on an idle machine
            while not (folder / "run" / LAST).exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            os.killpg(process.pid, number)
            status = process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return status, (folder / "output.txt").read_text()


def as_from_a_terminal() -> None:
    """Ctrl-C counts, also where the tests themselves run in the background and ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stop_signal_to_the_launcher_saves_and_ends_the_run(tmp_path, number, expected):
    status, text = stopped_by(number, tmp_path, LAUNCHER)
    assert status == expected, text[-3000:]
    assert text.count("Outcome.stopped") == 2
    assert text.count("Ctrl-C") == (number == signal.SIGINT)
    assert load_checkpoint(tmp_path / "run" / LAST)["step"] > 0


def test_ctrl_c_stops_like_sigterm_with_one_line_and_no_word_from_loader_processes(tmp_path):
    status, text = stopped_by(signal.SIGINT, tmp_path, ())
    assert status == 0, text[-3000:]  # of the toy script; scripts/train.py makes 130 of the outcome
    assert text.count("Outcome.interrupted") == 1
    assert text.count("Ctrl-C") == 1
    assert "Traceback" not in text
    assert load_checkpoint(tmp_path / "run" / LAST)["step"] > 0


def test_a_loader_process_forked_a_moment_ago_is_not_interrupted():
    """The terminal's signal may reach it before it is told to ignore such."""
    with StopRequest() as stop:
        stop._process += 1
        stop._interrupt(signal.SIGINT, None)
    assert stop.received is None


def test_a_second_ctrl_c_ends_the_process_at_once():
    code = (
        "import os, signal; from coop3d.training.signals import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT); print(stop.received, stop.interrupted, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('never', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100,
        preexec_fn=as_from_a_terminal,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "SIGINT True\n")
    assert done.stderr.count("Ctrl-C") == 1


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_train_tells_the_shell_of_ctrl_c(monkeypatch, error):
    """Saved, or interrupted before the first step: a script must not go on to its next command."""

    def train(*_: object) -> Outcome:
        if error is not None:
            raise error
        return Outcome.interrupted

    for name in ("require_complete", "require_targets"):
        monkeypatch.setattr(launch, name, lambda *_: None)
    runtime = SimpleNamespace(runtime=SimpleNamespace(output_dir="run"))
    monkeypatch.setattr(launch, "HydraConfig", SimpleNamespace(get=lambda: runtime))
    monkeypatch.setattr(launch, "_train", train)
    cfg = OmegaConf.create({"distributed": {"strategy": "none"}, "preflight": {"wait_for_free": 0}})
    monkeypatch.setattr(launch, "processes", lambda *_: nullcontext(ALONE))
    with pytest.raises(SystemExit) as caught:
        launch.train_from_config(cfg)
    assert caught.value.code == 130
