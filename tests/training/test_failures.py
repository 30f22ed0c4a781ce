"""A step that goes wrong stops before the update, and can be run again elsewhere from what it left."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from support.scripts import run_script
from support.toy_run import ToyDataset, ToyLoss, ToyModel, make_trainer

from coop3d.training.failures import load_batch, replay, save_batch
from coop3d.training.guard import PATIENCE, LossGuard, NonFiniteError
from coop3d.training.launch import plain
from coop3d.training.out_of_memory import GpuMemoryError
from coop3d.types import ViewTargets

CONFIG = {
    "machine": {},
    "model": {"_target_": "support.toy_run.ToyModel"},
    "loss": {"_target_": "support.toy_run.ToyLoss"},
    "train_params": {"precision": "auto", "teacher": None},
}


class Jumping(ToyLoss):
    """Behaves, until one call is ``factor`` times as large."""

    def __init__(self, at: int, factor: float) -> None:
        self.calls, self.at, self.factor = 0, at, factor

    def __call__(self, prediction, targets):
        output = super().__call__(prediction, targets)
        self.calls += torch.is_grad_enabled()
        factor = self.factor if self.calls == self.at else 1.0
        return type(output)(output.total * factor, output.terms)


def test_an_exploding_loss_stops_and_leaves_the_sample_and_the_weights(tmp_path, caplog):
    trainer = make_trainer(tmp_path, epochs=10)
    trainer.config = plain(OmegaConf.create(CONFIG))
    trainer.task = replace(trainer.task, loss_function=Jumping(at=30, factor=1e5))
    with pytest.raises(NonFiniteError, match=r"explode_factor=100 times its moving average .*town/0/"):
        trainer.fit()
    assert trainer.step == 29
    folder = tmp_path / "failures" / "step_000029"
    assert f"scripts/replay_batch.py {folder}" in caplog.text
    batch = load_batch(folder / "batch_0_0.safetensors")
    epoch = next(e for e in range(20) if _is_from_pass(batch, e))
    assert epoch > 0  # many passes later
    (again,) = replay(folder)
    assert again.first_bad_module is None
    assert again.bad_gradients == ()
    weights = trainer.model.state_dict()
    model = ToyModel()
    model.load_state_dict(weights)
    expected = ToyLoss()(model(batch.inputs), batch.targets).total
    assert again.scalars["total"] == pytest.approx(expected.item(), rel=1e-6)
    assert again.grad_norm > 0
    assert not list(tmp_path.rglob("*.pkl"))


def _is_from_pass(batch, epoch: int) -> bool:
    again = ToyDataset()[(epoch, int(batch.keys[0][0].frame))].batch
    return torch.equal(again.inputs.image[0], batch.inputs.image[0])


def test_replay_names_the_first_module_that_breaks(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.config = plain(OmegaConf.create(CONFIG))
    with torch.no_grad():
        trainer.model.norm.weight.fill_(math.inf)
    with pytest.raises(NonFiniteError):
        trainer.fit()
    (again,) = replay(tmp_path / "failures" / "step_000000")
    assert again.first_bad_module == "norm"
    assert "encoder.weight" in again.bad_gradients
    assert "first module with an output that is not finite: norm" in str(again)


def test_replay_of_nothing_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"give failures/step_<n>"):
        replay(tmp_path)
    assert "give failures/step_<n>" in run_script("replay_batch.py", tmp_path / "nope", status=1).stderr


def test_a_batch_comes_back_whole(tmp_path):
    batch = ToyDataset()[(0, 3)].batch
    save_batch(tmp_path / "b.safetensors", batch)
    again = load_batch(tmp_path / "b.safetensors")
    assert again.keys == batch.keys
    for name in ViewTargets.__dataclass_fields__:
        assert torch.equal(getattr(again.targets, name), getattr(batch.targets, name))
    assert again.inputs.rays is not None
    assert torch.equal(again.inputs.rays, batch.inputs.rays)


def test_guard_bears_noise_and_forgets_slowly():
    guard = LossGuard(explode_factor=10.0)
    for i in range(PATIENCE):
        assert guard.complaint(1e6 if i == 0 else 1.0, 1.0) is None  # too early to judge
        guard.accept(1.0)
    assert guard.complaint(9.9, 1.0) is None
    assert guard.complaint(-10.1, 1.0) is not None
    assert guard.complaint(1.0, math.nan) is not None
    other = LossGuard(10.0)
    other.load_state_dict(guard.state_dict())
    assert other.average == pytest.approx(1.0)
    assert other.is_bad(10.1)


class Full(ToyModel):
    """A GPU without room, simulated."""

    def forward(self, inputs):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of"
        )


def test_out_of_memory_says_phase_size_and_cure(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model = Full()
    with pytest.raises(GpuMemoryError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert "ran out of memory in the forward pass; asked for 2.50 GiB more" in message
    assert "micro-batch of 4 x " in message
    assert (
        "Try, in this order: train_params.max_micro_batch=1, model.encoder.gradient_checkpointing=true"
        in message
    )


def test_out_of_memory_in_the_update_blames_the_state(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(trainer.optimizer, "step", full)
    with pytest.raises(
        GpuMemoryError, match=r"the optimiser's update; asked for 20\.00 MiB more.*distributed=fsdp"
    ):
        trainer.fit()
