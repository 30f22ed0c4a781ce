"""Stop, kill, damage, resume: the same losses to the last bit as a run that was left alone."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from support.processes import CLEAN
from support.toy_run import ToyDataset, make_trainer, records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coop3d.conf import ConfigError, MetricMode, Optimizer
from coop3d.training.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    CheckpointError,
    CheckpointStore,
    config_changes,
    load_checkpoint,
    write_atomic,
)
from coop3d.training.schedule import make_optimizer, parameter_groups
from coop3d.training.trainer import Outcome
from coop3d.training.validation import ValidationResult, same_best


def losses(run_dir: Path) -> list[tuple]:
    train = [(r["step"], r["loss"], r["grad_norm"]) for r in records(run_dir, "train")]
    return train + [(r["step"], r["loss"]) for r in records(run_dir, "val")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("undisturbed")
    assert make_trainer(run_dir, dropout=0.3).fit() is Outcome.finished
    return run_dir


@pytest.mark.parametrize("request_at", [(0, 3), (0, 6), (1, 5), (1, 20)])
def test_sigterm_saves_and_resuming_repeats_every_bit(undisturbed, tmp_path, request_at):
    dataset = ToyDataset()
    dataset.sigterm_at = request_at
    assert make_trainer(tmp_path, dataset, dropout=0.3).fit() is Outcome.stopped
    stopped_at = load_checkpoint(tmp_path / LAST)["step"]
    assert 0 < stopped_at < 12
    assert make_trainer(tmp_path, dropout=0.3).fit() is Outcome.finished
    assert losses(tmp_path) == losses(undisturbed)


def test_sigusr1_stops_too(tmp_path):
    trainer = make_trainer(tmp_path)
    step = trainer._one_step

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGUSR1)
        return step(*arguments)

    trainer._one_step = interrupted
    assert trainer.fit() is Outcome.stopped
    assert load_checkpoint(tmp_path / LAST)["step"] == 1


def _train_until_killed(run_dir: Path) -> None:
    torch.set_num_threads(1)  # as tests/conftest.py does: another number of threads adds in another order
    dataset = ToyDataset()
    trainer = make_trainer(run_dir, dataset, dropout=0.3)
    save = trainer.store.save

    def save_then_die(payload, best=False):
        if trainer.step == 6:  # after the checkpoint of step 4, in the middle of the next one
            torch.save(payload, run_dir / ".checkpoint-next.pth")
            os.kill(os.getpid(), signal.SIGKILL)
        save(payload, best)

    trainer.store.save = save_then_die
    trainer.fit()


def test_kill_in_the_middle_of_a_checkpoint(undisturbed, tmp_path):
    process = CLEAN.Process(target=_train_until_killed, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert load_checkpoint(tmp_path / LAST)["step"] == 4
    assert [r["step"] for r in records(tmp_path, "train")] == [1, 2, 3, 4, 5, 6]  # two steps too many
    assert make_trainer(tmp_path, dropout=0.3).fit() is Outcome.finished
    assert losses(tmp_path) == losses(undisturbed)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_last_checkpoint_is_named_and_the_previous_one_used(undisturbed, tmp_path, damage, caplog):
    dataset = ToyDataset()
    dataset.sigterm_at = (1, 5)
    make_trainer(tmp_path, dataset, dropout=0.3).fit()
    content = bytearray((tmp_path / LAST).read_bytes())
    if damage == "flipped":
        weight = load_checkpoint(tmp_path / LAST)["model"]["encoder.weight"]
        content[content.find(weight.numpy().tobytes()) + 5] ^= 0xFF
    changed = {"truncated": content[:-2000], "flipped": content, "empty": b"", "text": b"not a checkpoint"}
    (tmp_path / LAST).write_bytes(changed[damage])
    assert make_trainer(tmp_path, dropout=0.3).fit() is Outcome.finished
    assert str(tmp_path / LAST) in caplog.text
    assert "used instead" in caplog.text
    assert (tmp_path / "checkpoint-last.damaged").exists()
    assert losses(tmp_path) == losses(undisturbed)


def test_no_whole_checkpoint_left_is_an_error(tmp_path):
    for name in (LAST, PREVIOUS):
        (tmp_path / name).write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="start in another"):
        CheckpointStore(tmp_path).latest()


def test_checkpoints_never_execute_code(tmp_path):
    torch.save({"format": "coop3d-checkpoint", "evil": os.system}, tmp_path / LAST)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / LAST)
    torch.save({"weights": torch.zeros(1)}, tmp_path / LAST)
    with pytest.raises(CheckpointError, match="not a checkpoint written by coop3d"):
        load_checkpoint(tmp_path / LAST)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_atomic({"step": 1}, tmp_path / "x.pth")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"x\.pth.*No space left.*untouched"):
        write_atomic({"step": 2}, tmp_path / "x.pth")
    assert torch.load(tmp_path / "x.pth", weights_only=True) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("killed_at", [1, 2, None])
def test_there_is_a_last_checkpoint_at_every_moment(tmp_path, monkeypatch, killed_at):
    """Also for an evaluation that reads it while the run trains, and after a kill between two renames."""
    store, real, renamed = CheckpointStore(tmp_path), os.replace, []
    store.save({"step": 1})

    def replace(source, target):
        renamed.append(target)
        if len(renamed) - 1 == killed_at:
            raise KeyboardInterrupt
        real(source, target)
        assert load_checkpoint(tmp_path / LAST)["step"] in (1, 2)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with contextlib.suppress(KeyboardInterrupt):
            store.save({"step": 2})
    assert len(renamed) == (3 if killed_at is None else killed_at + 1)  # staged, previous, last
    saved = 2 if killed_at is None else 1
    assert load_checkpoint(tmp_path / LAST)["step"] == saved
    store.save({"step": 3})
    assert [load_checkpoint(tmp_path / name)["step"] for name in (LAST, PREVIOUS)] == [3, saved]
    assert sorted(p.name for p in tmp_path.iterdir()) == [LAST, PREVIOUS]


def test_finished_run_says_so(undisturbed, caplog):
    caplog.set_level("INFO")
    before = (undisturbed / "log.jsonl").read_bytes()
    assert make_trainer(undisturbed, dropout=0.3).fit() is Outcome.already_finished
    assert "is finished (12 of 12 steps)" in caplog.text
    assert (undisturbed / "log.jsonl").read_bytes() == before


def test_checkpoints_of_the_newest_epochs_are_kept(tmp_path):
    make_trainer(tmp_path, epochs=5, epoch_checkpoints=3).fit()
    numbered = sorted(p.name for p in tmp_path.glob("checkpoint-[0-9]*.pth"))
    assert numbered == ["checkpoint-3.pth", "checkpoint-4.pth", "checkpoint-5.pth"]
    steps = [load_checkpoint(tmp_path / name)["step"] for name in numbered]
    assert steps == [12, 16, load_checkpoint(tmp_path / LAST)["step"]]


def test_best_is_the_lowest_validation_loss(undisturbed):
    best = min(records(undisturbed, "val"), key=lambda r: r["loss"])
    assert load_checkpoint(undisturbed / BEST)["step"] == best["step"]
    assert load_checkpoint(undisturbed / BEST)["best"] == best["loss"]


def test_the_best_value_of_another_metric_is_forgotten(tmp_path):
    def trainer(epochs: int, **changes):
        made = make_trainer(tmp_path, epochs=epochs, **changes)
        mode = changes.get("best_mode", MetricMode.min)
        made.config = {
            "train_params": {"best_metric": changes.get("best_metric", "loss"), "best_mode": mode.name}
        }
        return made

    trainer(2).fit()
    assert load_checkpoint(tmp_path / BEST)["step"] <= 8
    trainer(3, best_metric="range/delta_125", best_mode=MetricMode.max).fit()  # below 1, the loss was above
    assert load_checkpoint(tmp_path / BEST)["step"] == 12
    before = load_checkpoint(tmp_path / LAST)["best"]
    again = trainer(3, best_metric="range/delta_125", best_mode=MetricMode.max)
    again.fit()
    assert again.best == before


def test_the_best_value_of_another_loss_is_forgotten():
    config = {"train_params": {"best_metric": "loss", "best_mode": "min"}, "loss": {"pose": 1.0}}
    other = {**config, "loss": {"pose": 2.0}}
    assert same_best(config, dict(config))
    assert not same_best(config, other)
    by_score = {"best_metric": "range/abs_rel", "best_mode": "min"}
    assert same_best({**config, "train_params": by_score}, {**other, "train_params": by_score})


def test_a_misspelt_metric_is_named_before_anything_trains(tmp_path):
    with pytest.raises(
        ConfigError, match=r"best_metric=pose/translation_m/medain is not among .* did you mean pose/"
    ):
        make_trainer(tmp_path, best_metric="pose/translation_m/medain")
    make_trainer(tmp_path, best_metric="single/range/abs_rel")
    with pytest.raises(ConfigError, match="best_metric=single/pose"):  # one vehicle has no pose to find
        make_trainer(tmp_path, best_metric="single/pose/translation_m/median")


def test_a_metric_that_nothing_was_scored_for_warns(tmp_path, caplog):
    trainer = make_trainer(tmp_path, best_metric="range/abs_rel")
    losses = ValidationResult(metrics={"loss": 2.0, "range/abs_rel": math.nan}, bad=[], samples=4)
    assert not trainer._judge(losses)
    (message,) = [m for m in caplog.messages if "best_metric" in m]
    assert "best_metric=range/abs_rel could not be scored on 4" in message
    assert "Scored were: loss." in message


def test_a_term_that_the_loss_lacks_costs_no_step(tmp_path):
    """The loss is known after the first epoch only; the run goes on from there with the right name."""
    with pytest.raises(ConfigError, match=r"best_metric=loss/rnage .*did you mean loss/range"):
        make_trainer(tmp_path, checkpoint_every_steps=3, best_metric="loss/rnage").fit()
    assert load_checkpoint(tmp_path / LAST)["step"] == 4
    trainer = make_trainer(tmp_path, checkpoint_every_steps=3, best_metric="loss/range")
    assert trainer.fit() is Outcome.finished
    assert [r["step"] for r in records(tmp_path, "val")] == [4, 8, 12]
    assert trainer.best == min(r["loss/range"] for r in records(tmp_path, "val"))


def test_a_metric_that_nothing_could_be_scored_for_is_no_best_and_no_error(tmp_path):
    trainer = make_trainer(tmp_path, best_metric="trajectory/ate_m/median")
    assert trainer.fit() is Outcome.finished
    assert trainer.best is None
    assert not (tmp_path / BEST).exists()


def test_a_kill_between_the_renames_loses_no_best(tmp_path, monkeypatch):
    """A last checkpoint that knows of a best one finds it beside itself."""
    store = CheckpointStore(tmp_path)
    real = os.replace
    calls = []

    def replace_or_die(source, target):
        calls.append(Path(target).name)
        if calls[-1] == LAST:
            real(source, target)
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr("coop3d.training.checkpoint.os.replace", replace_or_die)
    with pytest.raises(KeyboardInterrupt):
        store.save({"best": 1.0, "step": 4}, best=True)
    assert load_checkpoint(tmp_path / LAST)["best"] == load_checkpoint(tmp_path / BEST)["best"] == 1.0


def test_scalars_of_steps_before_the_first_checkpoint_are_not_shown_twice(tmp_path):
    dataset = ToyDataset()
    dataset.raises = 3
    with pytest.raises(Exception, match="no such thing"):
        make_trainer(tmp_path, dataset, checkpoint_every_steps=100).fit()
    make_trainer(tmp_path, epochs=1, checkpoint_every_steps=100).fit()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_a_larger_batch_beyond_the_end_of_its_shorter_pass_goes_on_in_the_next(tmp_path):
    make_trainer(tmp_path, epochs=1, steps_per_epoch=5, global_batch=4).fit()
    position = load_checkpoint(tmp_path / LAST)["sampler"]
    trainer = make_trainer(tmp_path, epochs=2, steps_per_epoch=5, global_batch=8)
    assert position["batch"] >= len(trainer.sampler.plan(position["epoch"]))
    assert trainer.fit() is Outcome.finished
    assert load_checkpoint(tmp_path / LAST)["step"] == 10


def test_a_parameter_without_a_gradient_does_not_prevent_resuming(tmp_path):
    def trainer(epochs: int):
        made = make_trainer(tmp_path, epochs=epochs)
        made.model.spare = torch.nn.Linear(2, 2)
        groups = parameter_groups(made.model, 1e-2, 0.05, 1.0)
        made.optimizer = make_optimizer(groups, (0.9, 0.95))
        return made

    trainer(1).fit()
    assert not any("spare" in name for name in load_checkpoint(tmp_path / LAST)["optimizer"]["state"])
    assert trainer(2).fit() is Outcome.finished


def test_resuming_with_muon_repeats_every_bit(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer(whole, optimizer=Optimizer.muon).fit()
    dataset = ToyDataset()
    dataset.sigterm_at = (1, 5)
    assert make_trainer(parts, dataset, optimizer=Optimizer.muon).fit() is Outcome.stopped
    assert make_trainer(parts, optimizer=Optimizer.muon).fit() is Outcome.finished
    assert losses(parts) == losses(whole)


def test_a_run_goes_on_with_another_optimiser_whose_moments_begin_at_zero(tmp_path, caplog):
    """What both treat alike keeps its moments; of the matrix each keeps its own kind."""
    made = [make_trainer(tmp_path, optimizer=Optimizer.muon, epochs=1)]
    made[0].fit()
    matrix, vector = "encoder.2.weight", "norm.weight"
    assert load_checkpoint(tmp_path / LAST)["optimizer"]["state"][matrix].keys() == {"momentum"}
    for optimizer, kinds in (
        (Optimizer.adamw, {"step", "exp_avg", "exp_avg_sq"}),
        (Optimizer.muon, {"momentum"}),
    ):
        # Muon chooses the model with a matrix; the optimiser is replaced.
        trainer = make_trainer(tmp_path, optimizer=Optimizer.muon, epochs=len(made) + 1)
        groups = parameter_groups(trainer.model, 1e-2, 0.05, 1.0, orthogonal=optimizer is Optimizer.muon)
        trainer.optimizer = make_optimizer(groups, (0.9, 0.95))
        with caplog.at_level("INFO"):
            assert trainer.fit() is Outcome.finished
        assert f"No moments of {matrix}: " in caplog.text
        caplog.clear()
        state = load_checkpoint(tmp_path / LAST)["optimizer"]["state"]
        assert state[matrix].keys() == kinds
        assert state[vector]["step"] == 4 * (len(made) + 1)
        made.append(trainer)


def test_worker_processes_do_not_change_the_numbers(undisturbed, tmp_path):
    assert make_trainer(tmp_path, dropout=0.3, num_workers=2).fit() is Outcome.finished
    assert losses(tmp_path) == losses(undisturbed)


def test_loss_falls(undisturbed):
    train = [r["loss"] for r in records(undisturbed, "train")]
    assert sum(train[-4:]) < sum(train[:4])


def test_log_names_every_term(undisturbed):
    record = records(undisturbed, "train")[0]
    names = ("loss/range", "loss/pose", "lr/rest", "lr/encoder", "samples_per_s", "data_wait", "grad_norm")
    assert all(name in record for name in names)
    assert record["loss"] == pytest.approx(record["loss/range"] + record["loss/pose"], rel=1e-6)
    assert list((undisturbed / "tensorboard").iterdir())


def test_resuming_with_another_model_names_checkpoint_keys_and_remedy(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    trainer = make_trainer(tmp_path / "run", epochs=9)
    trainer.model.head = torch.nn.Linear(8, 2)
    trainer.config = {"toy": True, "model": {"model_config": {"name": "small"}}, "loss": "other"}
    with pytest.raises(CheckpointError, match="do not fit") as caught:
        trainer.fit()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'run' / LAST}: its weights do not fit")
    assert "model: None -> {'model_config': {'name': 'small'}}" in message
    assert "loss" not in message
    assert "another hydra.run.dir" in message


def test_config_changes_are_listed_by_key():
    old, new = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "d": [1], "e": 4}
    assert config_changes(old, new) == ["a.c: 2 -> 3", "e: None -> 4"]
