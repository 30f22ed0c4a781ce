"""One process of one or many: device and collectives. All processes call the same methods."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from coop3d.conf import DistributedConf, Strategy

T = TypeVar("T")


class PeerError(RuntimeError):
    """Another process stopped; the message says which and why."""


@dataclass(frozen=True)
class Processes:
    """This process among its peers.

    Numbers and objects travel over the CPU (gloo), tensors of a model over its device's own backend.
    """

    rank: int
    world_size: int
    device: torch.device
    find_unused_parameters: bool = False
    sharded: bool = False  # weights, gradients and optimiser state are cut over the processes

    @property
    def is_main(self) -> bool:
        """True on the one process that writes files."""
        return self.rank == 0

    @property
    def on_this_machine(self) -> int:
        """How many of the processes run on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum over processes, element by element."""
        if self.world_size == 1:
            return [float(v) for v in values]
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, value: T) -> list[T]:
        """The value of every process, by rank, on every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def fill(self, value: T | None) -> T | None:
        """The value; where it is None, that of the first process that has one (None if none has)."""
        if self.world_size == 1 or not self.sum([value is None])[0]:
            return value
        values = self.gather(value)
        return value if value is not None else next((v for v in values if v is not None), None)

    def together(self, error: BaseException | None) -> None:
        """Raise on every process if some process met an error: its own, or a `PeerError` that names the first."""
        messages = self.gather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, message in enumerate(messages):
            if message is not None:
                raise PeerError(f"Process {rank} stopped: {message}")

    def barrier(self) -> None:
        """Wait for all."""
        self.sum([0.0])

    def claim_device(self) -> None:
        """Make this process's GPU the current one; no earlier call takes memory there."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def average_gradients(self, model: nn.Module) -> None:
        """Average ``.grad`` over processes by hand, where DDP cannot.

        What no process used keeps no gradient, as in one process: the optimiser leaves it alone.
        """
        trained = [p for p in model.parameters() if p.requires_grad]
        users = self.sum([p.grad is not None for p in trained])
        for parameter in (p for p, count in zip(trained, users, strict=True) if count):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.world_size


@contextmanager
def processes(conf: DistributedConf, patience_minutes: float = 0.0) -> Iterator[Processes]:
    """Join the process group of torchrun's processes, if there are several, and leave it at the end.

    Takes no GPU memory; `Processes.claim_device` does.

    Args:
        conf: strategy and device.
        patience_minutes: how much longer than ``timeout_minutes`` processes may wait for each other.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if conf.strategy is Strategy.none and world_size > 1:
        raise ValueError(
            f"distributed=none, but torchrun started {world_size} processes; use distributed=ddp or fsdp."
        )
    device = _device(conf.device)
    sharded = conf.strategy is Strategy.fsdp and world_size > 1
    rank = int(os.environ.get("RANK", "0"))
    me = Processes(rank, world_size, device, conf.find_unused_parameters, sharded)
    if world_size == 1:
        yield me
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=conf.timeout_minutes + patience_minutes))
    try:
        yield me
    except BaseException:
        if backend == "gloo":
            dist.destroy_process_group()
        # With NCCL, destroy_process_group is collective; the other ranks do not call it, so this rank would hang before
        # its error is shown.
        raise
    dist.destroy_process_group()


def _device(wanted: str) -> torch.device:
    if wanted not in ("auto", "cpu", "cuda"):
        raise ValueError(f"distributed.device={wanted!r} is not one of auto, cpu, cuda.")
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    local_rank, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= available:
        raise ValueError(
            f"Process {local_rank} of this machine has no GPU: {available} visible. Start at most that many "
            "processes, check CUDA_VISIBLE_DEVICES, or use distributed.device=cpu."
        )
    return torch.device("cuda", local_rank)


def set_backend_flags(tf32: bool) -> None:
    """Set the process-wide numeric flags; called once, by the one who trains or evaluates."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # what libraries may draw from
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, Any]:
    """State of every global generator as a plain container."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Inverse of :func:`rng_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy_keys = np.array(keys, dtype=np.uint32)
    np.random.set_state((name, numpy_keys, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
