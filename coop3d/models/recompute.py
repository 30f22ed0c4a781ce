"""Gradient checkpointing: keep less in the forward pass, recompute it in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, TypeVar

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

R = TypeVar("R")

CheckpointPolicy = Literal["full", "selective"]

# What "selective" keeps: the operations that take the time. Norms, activation functions and sums are recomputed.
_COSTLY = (
    ("aten", "mm"),
    ("aten", "addmm"),
    ("aten", "bmm"),
    ("aten", "convolution"),
    ("aten", "_scaled_dot_product_flash_attention"),
    ("aten", "_scaled_dot_product_flash_attention_for_cpu"),
    ("aten", "_scaled_dot_product_efficient_attention"),
    ("aten", "_scaled_dot_product_cudnn_attention"),
    ("mkldnn", "_linear_pointwise"),  # of `coop3d.models.linear`
    ("coop3d", "attend_by_products"),
)


def run_block(
    block: Callable[..., R], *arguments: Any, checkpointing: bool, policy: CheckpointPolicy = "full"
) -> R:
    """Call ``block(*arguments)``; with ``checkpointing``, and while gradients are recorded, keep less of it.

    Args:
        block: draws no random numbers.
        arguments: tensors and plain values.
        checkpointing: off: keep everything that the backward pass needs.
        policy: ``full`` keeps the arguments alone; ``selective`` also the outputs of matrix products, convolutions
            and attention, so that recomputing costs little.
    """
    if not (checkpointing and torch.is_grad_enabled()):
        return block(*arguments)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if policy == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _costly_operations())
    return checkpoint(block, *arguments, **options)


@cache
def _costly_operations() -> list[Any]:
    # Not every build has every kernel.
    found = [getattr(getattr(torch.ops, space), name, None) for space, name in _COSTLY]
    return [packet.default for packet in found if packet is not None]
