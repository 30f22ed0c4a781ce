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


def attend(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
    """Softmax attention; a token sees the tokens of its own sequence only.

    Padding every sequence to the longest would waste ``1 - sum(l^2) / (n max(l)^2)`` of the work. Instead, sequences of
    equal length are attended together, or, in half precision on a GPU of compute capability 8.0 and later whose PyTorch
    has it, all of them by one variable-length kernel.

    Args:
        q: [N, heads, T, head_dim]; so are ``k`` and ``v``.
        lengths: with N = 1, the lengths of the sequences that lie one behind the other in T; None means that each
            of the N rows is one sequence.

    Returns:
        As ``q``.
    """
    if lengths is None:
        return _attend(q, k, v)
    kernel = _variable_length_kernel()
    if kernel is not None and _runs_flash_attention(q):
        return _attend_by_kernel(kernel, q, k, v, lengths)
    return _attend_by_length(q, k, v, lengths)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if products_are_faster(q, k):
        out: Tensor = attend_by_products(q, k, v)
        return out
    return F.scaled_dot_product_attention(q, k, v)


def _runs_flash_attention(q: Tensor) -> bool:
    """What the kernel is made of: for half precision, from Ampere on."""
    half = q.dtype in (torch.bfloat16, torch.float16)
    return half and q.is_cuda and torch.cuda.get_device_capability(q.device) >= (8, 0)


def _attend_by_length(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    parts = [x[0].split(list(lengths), dim=1) for x in (q, k, v)]  # of each sequence [heads, T_i, head_dim]
    out: list[Tensor | None] = [None] * len(lengths)
    for length in sorted(set(lengths)):
        members = [i for i, n in enumerate(lengths) if n == length]
        q_n, k_n, v_n = (torch.stack([part[i] for i in members]) for part in parts)
        for i, result in zip(members, _attend(q_n, k_n, v_n), strict=True):
            out[i] = result
    return torch.cat([x for x in out if x is not None], dim=1)[None]


def _attend_by_kernel(
    kernel: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]
) -> Tensor:
    ends = _ends(tuple(lengths), q.device)
    packed = [x[0].transpose(0, 1).contiguous() for x in (q, k, v)]  # [T, heads, head_dim]
    out: Tensor = kernel(*packed, ends, ends, max(lengths), max(lengths))
    return out.transpose(0, 1)[None]


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
