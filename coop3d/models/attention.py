"""Attention inside sequences of equal or different lengths, without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coop3d.models.product_attention import attend_by_products, products_are_faster


def attend(qkv: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
    """Softmax attention; a token sees the tokens of its own sequence only.

    Padding every sequence to the longest would waste ``1 - sum(l^2) / (n max(l)^2)`` of the work. Instead, sequences of
    equal length are attended together, or, in half precision on a GPU of compute capability 8.0 and later whose PyTorch
    has it, all of them by one variable-length kernel.

    Args:
        qkv: [N, T, 3, heads, head_dim], queries, keys and values.
        lengths: with N = 1, the lengths of the sequences that lie one behind the other in T; None means that each
            of the N rows is one sequence.

    Returns:
        [N, T, heads, head_dim].
    """
    if lengths is None:
        return _attend(qkv)
    kernel = _variable_length_kernel()
    if kernel is not None and _runs_flash_attention(qkv):
        return _attend_by_kernel(kernel, qkv, lengths)
    return _attend_by_length(qkv, lengths)


def _attend(qkv: Tensor) -> Tensor:
    if products_are_faster(qkv):
        out: Tensor = attend_by_products(qkv)
        return out
    qkv = qkv.permute(2, 0, 3, 1, 4)  # [3, N, heads, T, head_dim]
    if qkv.device.type == "cpu":
        qkv = qkv.contiguous()  # its kernel reads k and v many times: a tenth faster, this copy included
    return F.scaled_dot_product_attention(*qkv).transpose(1, 2)


def _runs_flash_attention(qkv: Tensor) -> bool:
    """What the kernel is made of: for half precision, from Ampere on."""
    half = qkv.dtype in (torch.bfloat16, torch.float16)
    return half and qkv.is_cuda and torch.cuda.get_device_capability(qkv.device) >= (8, 0)


def _attend_by_length(qkv: Tensor, lengths: Sequence[int]) -> Tensor:
    parts = qkv[0].split(list(lengths))
    out: list[Tensor | None] = [None] * len(lengths)
    for length in sorted(set(lengths)):
        members = [i for i, n in enumerate(lengths) if n == length]
        for i, result in zip(members, _attend(torch.stack([parts[i] for i in members])), strict=True):
            out[i] = result
    return torch.cat([x for x in out if x is not None])[None]


def _attend_by_kernel(kernel: Callable[..., Any], qkv: Tensor, lengths: Sequence[int]) -> Tensor:
    ends = _ends(tuple(lengths), qkv.device)
    q, k, v = (x.contiguous() for x in qkv[0].unbind(1))  # [T, heads, head_dim]
    out: Tensor = kernel(q, k, v, ends, ends, max(lengths), max(lengths))
    return out[None]


@lru_cache(maxsize=16)  # every layer asks, and a copy from the host would make the GPU wait
@torch.inference_mode(False)  # made while predicting, they serve training, too
def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


@cache
def _variable_length_kernel() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn  # PyTorch 2.10 and later
    except ImportError:
        return None
    return varlen_attn
