"""Ends a run whose loss is NaN or infinite, or explodes, before the weights are updated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from coop3d.types import CoopBatch

MEMORY = 0.98  # the moving average looks back about 50 steps
PATIENCE = 20  # steps before there is an average worth comparing with


class NonFiniteError(RuntimeError):
    """Loss or gradient is NaN or infinite, or the loss explodes.

    Args:
        message: for people.
        record: for a file.
        culprits: those of this process's micro-batches that caused it.
    """

    def __init__(self, message: str, record: dict[str, Any], culprits: Sequence[CoopBatch] = ()) -> None:
        super().__init__(message)
        self.record, self.culprits = record, tuple(culprits)


class LossGuard:
    """Compares each step's loss with the moving average of the losses' size."""

    def __init__(self, explode_factor: float) -> None:
        self.explode_factor = explode_factor
        self.average, self.steps = 0.0, 0

    def complaint(self, loss: float, grad_norm: float) -> str | None:
        """What is wrong with a step; None if nothing."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return f"Loss {loss} and gradient norm {grad_norm} must be finite."
        if self.is_bad(loss):
            return (
                f"Loss {loss:.4g} is more than train_params.explode_factor={self.explode_factor:g} times its moving "
                f"average {self.average:.4g}."
            )
        return None

    def is_bad(self, loss: float) -> bool:
        """Whether one loss, of a step or of a micro-batch, is an outlier."""
        if not math.isfinite(loss):
            return True
        return self.steps >= PATIENCE and abs(loss) > self.explode_factor * self.average

    def accept(self, loss: float) -> None:
        """Account for a step whose update was made."""
        weight = max(1 - MEMORY, 1 / (self.steps + 1))  # a plain mean at first
        self.average += weight * (abs(loss) - self.average)
        self.steps += 1

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"average": self.average, "steps": self.steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.average, self.steps = float(state["average"]), int(state["steps"])
