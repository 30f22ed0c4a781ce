"""One optimiser step over a global batch whose parts lie on several processes, some of them perhaps empty.

The gradient is that of the mean loss over the good samples of *all* processes. Each loss is a mean over its
own samples, and the parallel wrap averages over processes, so a micro-batch of n samples counts
``n * world_size / N`` with N the good samples of the global batch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from coop3d.conf import ConfigError, Precision
from coop3d.training.distributed import Processes
from coop3d.types import CoopBatch, FactoredPrediction, ViewTargets


class LossOutput(Protocol):
    """What a loss hands out: ``total`` carries the graph, ``scalars()`` are for logs."""

    @property
    def total(self) -> Tensor: ...

    def scalars(self) -> dict[str, Tensor]: ...


LossFunction = Callable[[FactoredPrediction, ViewTargets], LossOutput]
Autocast = Callable[[], AbstractContextManager[Any]]


class NonFiniteError(RuntimeError):
    """Loss or gradient is NaN or infinite."""

    def __init__(self, message: str, record: dict[str, Any]) -> None:
        super().__init__(message)
        self.record = record


@dataclass
class Sums:
    """Sums over samples, on this process, of everything a loss reports."""

    samples: int = 0
    values: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, scalars: dict[str, float], samples: int) -> None:
        """Account for a batch whose means are ``scalars``."""
        self.samples += samples
        for name, value in scalars.items():
            self.values[name] += value * samples

    def mean(self, processes: Processes) -> dict[str, float]:
        """Mean over the samples of all processes."""
        parts = processes.gather((self.samples, dict(self.values)))
        total = sum(samples for samples, _ in parts)
        names = dict.fromkeys(name for _, values in parts for name in values)
        return {n: sum(values.get(n, 0.0) for _, values in parts) / total for n in names} if total else {}


@dataclass(frozen=True)
class StepResult:
    """What came of one step."""

    loss: float  # mean over the global batch
    grad_norm: float  # before clipping


class OptimiserStep:
    """Forward, backward, finite check, clip, update.

    Args:
        model: the plain model.
        wrapped: the same model as the parallel wrap sees it.
    """

    def __init__(
        self,
        model: nn.Module,
        wrapped: nn.Module,
        loss_function: LossFunction,
        optimizer: torch.optim.Optimizer,
        clip_norm: float,
        autocast: Autocast,
        processes: Processes,
    ) -> None:
        self.model, self.wrapped, self.loss_function = model, wrapped, loss_function
        self.optimizer, self.clip_norm = optimizer, clip_norm
        self.autocast, self.processes = autocast, processes
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def __call__(
        self, batches: Sequence[CoopBatch], good: int, everyone_has_some: bool, sums: Sums
    ) -> StepResult:
        """Update once from this process's micro-batches.

        Args:
            batches: micro-batches with at least one sample each; may be empty on this process.
            good: samples of the global batch over all processes, > 0.
            everyone_has_some: whether every process has at least one micro-batch.
            sums: receives this process's loss terms.

        Raises:
            NonFiniteError: on every process, before any weight is touched.
        """
        self.optimizer.zero_grad(set_to_none=True)
        factor = self.processes.world_size / good
        losses: list[float] = []
        for i, batch in enumerate(batches):
            # Exactly one pass through the wrap per step and process, or none on any: that is what lets
            # processes with different numbers of micro-batches meet in the same collectives.
            synchronise = everyone_has_some and i == len(batches) - 1
            losses.append(self._backward(batch, self.wrapped if synchronise else self.model, factor, sums))
        if not everyone_has_some:
            self.processes.average_gradients(self.model)
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self.clip_norm))
        weighted = sum(loss * len(b.keys) for loss, b in zip(losses, batches, strict=True))
        loss = self.processes.sum([weighted])[0] / good
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._stop(batches, losses, loss, grad_norm)
        self.optimizer.step()
        return StepResult(loss, grad_norm)

    def _backward(self, batch: CoopBatch, network: nn.Module, factor: float, sums: Sums) -> float:
        batch = batch.to(self.processes.device, non_blocking=True)
        samples = len(batch.keys)
        with self.autocast():
            prediction = network(batch.inputs)
        output = self.loss_function(prediction, batch.targets)
        (output.total * (samples * factor)).backward()
        scalars = read_scalars(output)
        sums.add(scalars, samples)
        return scalars["total"]

    def _stop(self, batches: Sequence[CoopBatch], losses: list[float], loss: float, grad_norm: float) -> None:
        mine: list[dict[str, Any]] = [
            {"loss": value, "samples": [[str(k) for k in keys] for keys in batch.keys]}
            for value, batch in zip(losses, batches, strict=True)
        ]
        everyone = [micro for part in self.processes.gather(mine) for micro in part]
        suspects = [m for m in everyone if not math.isfinite(m["loss"])] or everyone
        names = "; ".join(" + ".join(keys) for micro in suspects for keys in micro["samples"])
        raise NonFiniteError(
            f"Loss {loss} and gradient norm {grad_norm} must be finite. Among the samples: {names}.",
            {"loss": loss, "grad_norm": grad_norm, "micro_batches": everyone},
        )


def read_scalars(output: LossOutput) -> dict[str, float]:
    """Every reported number, copied from the device at once."""
    scalars = output.scalars()
    values = torch.stack([v.detach().double().reshape(()) for v in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))


def make_autocast(precision: Precision, device: torch.device) -> Autocast:
    """Context of a forward pass: bf16 by choice, or by default on a GPU that has it; never on a CPU."""
    if device.type != "cuda":
        if precision is Precision.bf16:
            raise ConfigError("train_params.precision=bf16 needs a GPU; use auto or fp32 on a CPU.")
        return nullcontext
    auto = precision is Precision.auto and torch.cuda.is_bf16_supported(including_emulation=False)
    if auto or precision is Precision.bf16:
        return partial(torch.autocast, "cuda", dtype=torch.bfloat16)
    return nullcontext
