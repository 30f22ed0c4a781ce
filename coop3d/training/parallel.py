"""How a model is spread over the processes: replicated (DDP) or cut into shards (FSDP2)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from coop3d.training.distributed import Processes

BLOCK_LISTS = "blocks"  # lists whose name ends so hold the layers of a transformer


def shard(model: nn.Module, processes: Processes, bf16: bool) -> nn.Module:
    """Cut parameters over the processes in place, block by block, and move them to the device.

    Each transformer block is gathered when it runs and let go again; what is left (embeddings, heads) is one
    more unit. Weights stay float32; blocks are gathered as bfloat16 where the forward pass computes in it anyway.
    Gradients are added up in float32. Does nothing on one process.
    """
    if not processes.sharded:
        return model.to(processes.device)
    mesh = torch.distributed.init_device_mesh(processes.device.type, (processes.world_size,))
    # Inputs are not cast: autocast does that, and the residual stream stays float32 as without sharding.
    blocks = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in transformer_blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=blocks)
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    return model.to(processes.device)  # buffers


def transformer_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The layers worth a unit of their own."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.endswith(BLOCK_LISTS):
            yield from module


def replicate(model: nn.Module, processes: Processes) -> nn.Module:
    """The model whose backward pass averages gradients over processes; sharded models do so themselves.

    Not for weights that some steps do not use: DDP finds them, but takes those that passes outside of its wrap used
    in an earlier step for used, and fails. `Processes.average_gradients` has to follow the last backward pass then.
    """
    if processes.world_size == 1 or processes.sharded or processes.find_unused_parameters:
        return model
    arguments = inspect.signature(DistributedDataParallel).parameters  # renamed by newer torch
    sync_buffers = "forward_sync_buffers" if "forward_sync_buffers" in arguments else "broadcast_buffers"
    options: dict[str, Any] = {sync_buffers: False}
    return DistributedDataParallel(
        model,
        device_ids=[processes.device.index] if processes.device.type == "cuda" else None,
        **options,
    )


def local(tensor: Tensor) -> Tensor:
    """This process's part of a parameter; all of it where it is not sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded scalar or tensor put together on every process; all processes call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def part_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Inverse of `whole`: cut a tensor that every process has as ``parameter`` is cut."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
