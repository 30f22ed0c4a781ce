"""When a GPU is full: in which phase, by how much, and what to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from coop3d.types import CoopBatch

GIB = 2**30
VALIDATION = "validation"
CHECKPOINTED = (  # what of the model can compute its activations again in the backward pass
    "model.encoder.gradient_checkpointing",
    "model.info_sharing.module_args.gradient_checkpointing",
    "model.pred_head.gradient_checkpointing",
)


class GpuMemoryError(RuntimeError):
    """A GPU had no room for a step."""


@contextmanager
def phase(name: str, device: torch.device, batch: CoopBatch | None = None) -> Iterator[None]:
    """Inside, running out of GPU memory is reported as happening in ``name`` (a noun with its article)."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise explained(error, name, batch, device) from error


def explained(
    error: torch.OutOfMemoryError, phase: str, batch: CoopBatch | None, device: torch.device
) -> GpuMemoryError:
    """The same error for people: the phase, what was asked for, what is held, the batch, what helps."""
    asked = re.search(r"Tried to allocate ([\d.]+ \w+)", str(error))
    parts = [f"{device} ran out of memory in {phase}"]
    if asked:
        parts.append(f"asked for {asked[1]} more")
    if device.type == "cuda":
        parts.append(_held(device))
    if batch is not None:
        B, V, H, W = batch.inputs.shape
        parts.append(f"micro-batch of {B} x {V} views of {W} x {H}")
    return GpuMemoryError(f"{'; '.join(parts)}. {_advice(phase, batch)}")


def _held(device: torch.device) -> str:
    free, total = torch.cuda.mem_get_info(device)
    mine = torch.cuda.memory_reserved(device)
    others = max(0, total - free - mine)
    return (
        f"this process holds {mine / GIB:.1f} GiB ({torch.cuda.memory_allocated(device) / GIB:.1f} in use), "
        f"other processes and the driver {others / GIB:.1f}, free are {free / GIB:.1f} of {total / GIB:.1f}"
    )


def _advice(phase: str, batch: CoopBatch | None) -> str:
    """What lowers the peak of this phase."""
    if phase == VALIDATION:
        return (
            "Training fitted: try train_params.validation_batch=1, or fewer dataset.val.sampling.vehicles. "
            "docs/training.md lists settings for cards of 24 to 140 GB."
        )
    if batch is None:
        return (
            "Weights, gradients and optimiser state are what fills it: distributed=fsdp cuts them over the "
            "processes, preset=freeze_encoder or preset=lora needs fewer."
        )
    changes = ["train_params.max_micro_batch=1"] if batch.inputs.shape[0] > 1 else []
    changes += [f"{part}=true" for part in CHECKPOINTED]
    changes += ["fewer dataset.train.sampling.vehicles", "distributed=fsdp"]
    return f"Try, in this order: {', '.join(changes)}. docs/training.md lists settings for cards of 24 to 140 GB."
