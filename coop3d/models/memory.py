"""How much GPU memory a training step needs, before anything is allocated.

Weights, gradients and optimiser state follow from the parameters; activations from a dry run of one forward and
backward pass on tensors that have shapes but no contents, so that checkpointing, frozen parts and mixed precision
count as they happen. See docs/model.md for the formulae and their limits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from coop3d.models.blocks import Block
from coop3d.models.config import MapAnythingConfig
from coop3d.models.mapanything import MapAnything
from coop3d.models.position_table import forget_axes
from coop3d.models.presets import Preset
from coop3d.types import FactoredPrediction, ViewInputs

GIB = 2**30
SHARD_UNITS_IN_FLIGHT = 2  # FSDP holds the block at work and the one it fetches ahead


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One micro-batch of one process."""

    views: int
    height: int
    width: int
    batch: int = 1
    bf16: bool = False  # autocast

    def __str__(self) -> str:
        precision = "bf16" if self.bf16 else "fp32"
        return f"{self.batch} x {self.views} views of {self.width} x {self.height}, {precision}"


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes of one model in training, unsharded."""

    weights: int  # parameters and buffers
    gradients: int  # of trainable parameters
    optimiser: int
    largest_block: int  # parameters of the largest block that FSDP would gather at once
    root: int  # parameters outside of all blocks, which FSDP gathers once and keeps through the step
    root_gradients: int  # of those that train
    kept: int  # activations alive between forward and backward
    activations: int  # peak beyond weights and gradients, backward pass and recomputation included

    def ddp(self, processes: int) -> int:
        """Bytes per GPU, everything replicated; several processes need buckets the size of the gradients."""
        buckets = self.gradients if processes > 1 else 0
        return self.weights + self.gradients + self.optimiser + buckets + self.activations

    def fsdp(self, processes: int) -> int:
        """Bytes per GPU with weights, gradients and optimiser state cut into ``processes`` shards."""
        state = -(-(self.weights + self.gradients + self.optimiser) // processes)
        if processes == 1:
            return state + self.activations
        # whole gradients of the root, and as much again where they are joined to be added up
        gathered = self.root + 2 * self.root_gradients + SHARD_UNITS_IN_FLIGHT * self.largest_block
        return state + gathered + self.activations

    def table(self, processes: int, workload: Workload) -> str:
        """Every part and both sums, in GiB, as lines of text."""
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimiser state": self.optimiser,
            "activations, kept after forward": self.kept,
            "activations, peak in backward": self.activations,
            f"sum per GPU, DDP on {processes}": self.ddp(processes),
            f"sum per GPU, FSDP on {processes}": self.fsdp(processes),
        }
        lines = [f"estimated memory for {workload} (GiB, without loss, CUDA context, allocator's slack):"]
        return "\n".join(lines + [f"  {name:<34}{size / GIB:>8.2f}" for name, size in parts.items()])


@cache  # seconds for a large model, and both the forecast and the preflight of a run ask
def estimate_memory(
    config: MapAnythingConfig,
    workload: Workload,
    preset: Preset | None = None,
    one_moment: Callable[[Tensor], bool] | None = None,
) -> MemoryEstimate:
    """Build the model without contents, apply the preset, and dry-run one training step.

    Args:
        config: the checkpoint it names is not read.
        workload: a micro-batch.
        preset: None trains everything.
        one_moment: as in `state_bytes`.
    """
    model = build_on_meta(config, preset)
    with shapes_only():
        model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device="cpu"))
        kept, peak = measure_activations(model, workload)
    return MemoryEstimate(kept=kept, activations=peak, **state_bytes(model, one_moment))


def build_on_meta(config: MapAnythingConfig, preset: Preset | None = None) -> MapAnything:
    """The model as training would see it, without memory for its parameters."""
    with torch.device("meta"):
        model = MapAnything(config)
        model.freeze_unreachable()
        if preset is not None:
            preset.apply(model)
    return model


def state_bytes(model: nn.Module, one_moment: Callable[[Tensor], bool] | None = None) -> dict[str, int]:
    """Bytes of weights, gradients and optimiser state, and how they lie in the units that FSDP gathers.

    Args:
        model: on any device.
        one_moment: whether the optimiser keeps one tensor of a parameter's size, as Muon of matrices; of the others,
            and with None of all, it keeps AdamW's two and a counter.
    """
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    trainable = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trainable)
    singles = [p for p in trainable if one_moment is not None and one_moment(p)]
    counters = 4 * (len(trainable) - len(singles))  # AdamW's, a float32 per tensor
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    inside = {id(p) for block in blocks for p in block.parameters()}
    root = [p for p in model.parameters() if id(p) not in inside]
    return {
        "weights": sum(t.nbytes for t in tensors),
        "gradients": gradients,
        "optimiser": 2 * gradients - sum(p.nbytes for p in singles) + counters,
        "largest_block": max((sum(p.nbytes for p in m.parameters()) for m in blocks), default=0),
        "root": sum(p.nbytes for p in root),
        "root_gradients": sum(p.nbytes for p in root if p.requires_grad),
    }


def measure_activations(model: nn.Module, workload: Workload) -> tuple[int, int]:
    """Bytes beyond weights and gradients of one forward and backward pass: (kept after forward, peak).

    Works on any device and on shapes only. The model's gradients exist beforehand, as in the second of several
    micro-batches, and are dropped afterwards.
    """
    device = next(model.parameters()).device
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    inputs = _inputs(workload, device)
    bf16 = torch.autocast(device.type, torch.bfloat16, cache_enabled=False)  # as `make_autocast`
    precision = bf16 if workload.bf16 else nullcontext()
    with LiveBytes() as counter:
        with precision:
            prediction = model(inputs)
        kept = counter.live
        _stand_in_loss(prediction).backward()
    model.zero_grad(set_to_none=True)
    return kept, counter.peak


def _inputs(workload: Workload, device: torch.device) -> ViewInputs:
    shape = (workload.batch, workload.views)
    rays = torch.zeros(*shape, workload.height, workload.width, 3, device=device)
    rays[..., 2] = 1.0
    image = torch.zeros(*shape, 3, workload.height, workload.width, device=device)
    return ViewInputs(image=image, rays=rays, origins=torch.zeros_like(rays))


def _stand_in_loss(prediction: FactoredPrediction) -> Tensor:
    """Reaches every output; the real losses' own memory is not estimated."""
    rays = prediction.rays if prediction.predicted_rays is None else prediction.predicted_rays
    matching = (prediction.descriptors, prediction.seen_logits)
    outputs = (prediction.points_ref, prediction.confidence, prediction.mask_logits, rays, *matching)
    return torch.stack([x.mean() for x in outputs if x is not None]).sum()


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages made inside the context that are alive, and their highest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments: list[Tensor] = []
        tree_map_only(Tensor, arguments.append, (args, kwargs))
        old = {x.untyped_storage()._cdata for x in arguments}  # views of and writes to what existed before
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, lambda x: self._see(x, old), out)
        return out

    def _see(self, tensor: Tensor, old: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or key in old:
            return
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


@contextmanager
def shapes_only() -> Iterator[None]:
    """Inside, new tensors have shapes only; nothing cached inside is seen outside, and the other way round."""
    forget_axes()
    state = torch.get_rng_state()
    try:
        with FakeTensorMode():
            yield
    finally:
        forget_axes()
        torch.set_rng_state(state)
