"""One optimiser step over a global batch whose parts lie on several processes, some of them perhaps empty.

The gradient is that of the mean loss over the good samples of *all* processes. Each loss is a mean over its
own samples, and DDP and FSDP average over processes, so a micro-batch of n samples counts
``n * world_size / N`` with N the good samples of the global batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from coop3d.conf import ConfigError, Precision
from coop3d.training.distributed import Processes
from coop3d.training.guard import LossGuard, NonFiniteError
from coop3d.training.out_of_memory import phase
from coop3d.training.parallel import replicate, whole
from coop3d.types import CoopBatch, FactoredPrediction


class LossOutput(Protocol):
    """What a loss hands out: ``total`` carries the graph, ``scalars()`` are for logs."""

    @property
    def total(self) -> Tensor: ...

    def scalars(self) -> dict[str, Tensor]: ...


LossFunction = Callable[..., LossOutput]  # (prediction, targets[, teacher=])
Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """From a batch to its loss: forward pass, a frozen teacher's where there is one, and the loss function."""

    loss_function: LossFunction
    autocast: Autocast
    teacher: nn.Module | None = None

    def predict(self, network: nn.Module, batch: CoopBatch) -> FactoredPrediction:
        """The network's prediction of a batch."""
        with self.autocast():
            return network(batch.inputs)

    def loss(self, prediction: FactoredPrediction, batch: CoopBatch) -> LossOutput:
        """Compare it with the truth, and with the teacher's prediction of the same inputs."""
        if self.teacher is None:
            return self.loss_function(prediction, batch.targets)
        with torch.no_grad():
            teacher_prediction = self.predict(self.teacher, batch)
        return self.loss_function(prediction, batch.targets, teacher=teacher_prediction)


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
        model: the plain model, or, where it is sharded, the sharded one.
        objective: what is minimised.
        optimizer: over the trainable parameters of ``model``.
        clip_norm: gradients longer than this are shortened to it.
        guard: stops at losses that explode or are no numbers.
        processes: this process among its peers.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        clip_norm: float,
        guard: LossGuard,
        processes: Processes,
    ) -> None:
        self.model, self.wrapped = model, replicate(model, processes)
        self.objective, self.optimizer, self.clip_norm = objective, optimizer, clip_norm
        self.guard, self.processes = guard, processes
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
            GpuMemoryError: on the process whose GPU is full.
        """
        self.optimizer.zero_grad(set_to_none=True)
        factor = self.processes.world_size / good
        reports = [
            self._backward(batch, network, len(batch.keys) * factor if i < len(batches) else 0.0)
            for i, (batch, network) in enumerate(self._passes(batches, everyone_has_some))
        ]
        if not self._averaged_by_backward(everyone_has_some):
            self.processes.average_gradients(self.model)
        with self._phase("gradient clipping", None):
            grad_norm = float(whole(torch.nn.utils.clip_grad_norm_(self._parameters, self.clip_norm)))
        # Read after the last pass: a GPU that is asked in between runs dry before the next micro-batch reaches it.
        values = [read_scalars(report) for report in reports[: len(batches)]]
        for scalars, batch in zip(values, batches, strict=True):
            sums.add(scalars, len(batch.keys))
        losses = [scalars["total"] for scalars in values]
        weighted = sum(loss * len(b.keys) for loss, b in zip(losses, batches, strict=True))
        loss = self.processes.sum([weighted])[0] / good
        if (complaint := self.guard.complaint(loss, grad_norm)) is not None:
            self._stop(complaint, batches, losses, loss, grad_norm)
        with self._phase("the optimiser's update", None):
            self.optimizer.step()
        self.guard.accept(loss)
        return StepResult(loss, grad_norm)

    def _averaged_by_backward(self, everyone_has_some: bool) -> bool:
        """Whether gradients are those of all processes already, thanks to DDP or FSDP, or for want of others."""
        me = self.processes
        return me.world_size == 1 or me.sharded or (everyone_has_some and not me.find_unused_parameters)

    def _passes(
        self, batches: Sequence[CoopBatch], everyone_has_some: bool
    ) -> Iterator[tuple[CoopBatch, nn.Module]]:
        """Every forward pass of this process with the network to use.

        With DDP exactly one pass per step and process goes through the wrap, or none on any: that is what
        lets processes with different numbers of micro-batches meet in the same collectives. Sharded layers are
        gathered in every pass, so processes with fewer micro-batches repeat one, at zero weight.
        """
        if not self.processes.sharded:
            for i, batch in enumerate(batches):
                last = everyone_has_some and i == len(batches) - 1
                yield batch, self.wrapped if last else self.model
            return
        passes = max(self.processes.gather(len(batches)))
        spare = self.processes.fill(batches[0] if batches else None)
        assert spare is not None, "a step without any good sample is skipped before"
        for i in range(passes):
            yield batches[i] if i < len(batches) else spare, self.model

    def _backward(self, batch: CoopBatch, network: nn.Module, weight: float) -> Mapping[str, Tensor]:
        """Add to the gradients; returns what the loss reports, still on the device."""
        with self._phase("moving the batch to the device", batch):
            batch = batch.to(self.processes.device, non_blocking=True)
        with self._phase("the forward pass", batch):
            prediction = self.objective.predict(network, batch)
        with self._phase("the loss", batch):
            output = self.objective.loss(prediction, batch)
        with self._phase("the backward pass", batch):
            (output.total * weight).backward()
        return {name: value.detach() for name, value in output.scalars().items()}  # the graph ends here

    def _phase(self, name: str, batch: CoopBatch | None) -> AbstractContextManager[None]:
        return phase(name, self.processes.device, batch)

    def _stop(
        self,
        complaint: str,
        batches: Sequence[CoopBatch],
        losses: list[float],
        loss: float,
        grad_norm: float,
    ) -> None:
        """Raise an error that names the samples with a bad loss; all samples where no single loss is bad."""
        mine: list[dict[str, Any]] = [
            {"loss": value, "samples": [[str(k) for k in keys] for keys in batch.keys]}
            for value, batch in zip(losses, batches, strict=True)
        ]
        everyone = [micro for part in self.processes.gather(mine) for micro in part]
        blamed = any(self.guard.is_bad(m["loss"]) for m in everyone)
        suspects = [m for m in everyone if self.guard.is_bad(m["loss"]) or not blamed]
        names = "; ".join(" + ".join(keys) for micro in suspects for keys in micro["samples"])
        culprits = [
            b for b, m in zip(batches, mine, strict=True) if self.guard.is_bad(m["loss"]) or not blamed
        ]
        raise NonFiniteError(
            f"{complaint} Among the samples: {names}.",
            {"loss": loss, "grad_norm": grad_norm, "micro_batches": everyone},
            culprits,
        )


def read_scalars(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Every reported number, copied from the device at once."""
    values = torch.stack([v.detach().double().reshape(()) for v in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))


def make_autocast(precision: Precision, device: torch.device) -> Autocast:
    """Context of a forward pass, see `forward_dtype`."""
    dtype = forward_dtype(precision, device)
    if dtype is torch.float32:
        return nullcontext
    # Casts are not kept: a step uses each weight once, and the copies would stay to the end of the forward pass.
    return partial(torch.autocast, "cuda", dtype=dtype, cache_enabled=False)


def forward_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What a forward pass computes in: bf16 by choice, or by default on a GPU that has it; never on a CPU."""
    if device.type != "cuda":
        if precision is Precision.bf16:
            raise ConfigError("train_params.precision=bf16 needs a GPU; use auto or fp32 on a CPU.")
        return torch.float32
    auto = precision is Precision.auto and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if auto or precision is Precision.bf16 else torch.float32
