"""The order in which an optimiser step hands work to a device and asks for its numbers."""

from __future__ import annotations

from support.toy_run import ToyLoss, make_trainer

import coop3d.training.step as step


def test_losses_are_read_once_every_micro_batch_is_under_way(tmp_path, monkeypatch):
    """Reading waits for a GPU, which would have nothing to do until the next micro-batch reaches it."""
    order = []
    read, compare = step.read_scalars, ToyLoss.__call__

    def reading(scalars):
        order.append("read")
        return read(scalars)

    def comparing(*arguments):
        order.append("loss")
        return compare(*arguments)

    trainer = make_trainer(tmp_path, epochs=1, steps_per_epoch=3, max_micro_batch=1)
    monkeypatch.setattr(step, "read_scalars", reading)
    monkeypatch.setattr(ToyLoss, "__call__", comparing)
    trainer.fit()
    assert order[:8] == 4 * ["loss"] + 4 * ["read"]
