"""Attention as products of matrices by oneDNN: on AMD processors with AVX-512 PyTorch's kernel has half the speed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, library

from coop3d.models.linear import mkl_is_slow, product
from coop3d.models.processor import runs_plainly

# With fewer tokens the overhead of a call is more than what it saves.
FEWEST_TOKENS = 1000
# Scores at a time: 3 MB, which stay in the cache from one operation to the next; and the fewest rows of a product.
SCORES, FEWEST_ROWS = 800_000, 256


def products_are_faster(qkv: Tensor) -> bool:
    """Whether `attend_by_products` is the faster one of this machine's attentions, and computes what is asked for."""
    return runs_plainly(qkv) and qkv.shape[1] >= FEWEST_TOKENS and mkl_is_slow()


@library.custom_op("coop3d::attend_by_products", mutates_args=())
def attend_by_products(qkv: Tensor) -> Tensor:
    """Softmax attention by oneDNN's products, a block of one head's queries at a time.

    One operation to PyTorch, so that a selective checkpoint keeps its result and not the scores inside.

    Args:
        qkv: [N, T, 3, heads, head_dim], float32 on a CPU, T > 0.

    Returns:
        [N, T, heads, head_dim].
    """
    N, T, _, *head = qkv.shape
    out = qkv.new_empty(N, T, *head)
    for qkv_head, of_head in _heads(qkv, out):
        q, k, v = _scaled(qkv_head)
        for q_block, of_block in _blocks(q, of_head):
            of_block.copy_(product(product(q_block, k).softmax(-1), v.t()))
    return out


@library.custom_op("coop3d::attend_by_products_backward", mutates_args=())
def _gradient(gradient: Tensor, qkv: Tensor) -> Tensor:
    """Gradient of qkv; the scores are computed again."""
    of_qkv = qkv.new_empty(qkv.shape)
    for g, qkv_head, of_head in _heads(gradient, qkv, of_qkv):
        q, k, v = _scaled(qkv_head)
        of_q, of_k, of_v = of_head.unbind(1)
        # Transposed, [head_dim, T]: oneDNN copies its first operand to transpose it, which should be the small one.
        sum_of_k, sum_of_v = torch.zeros_like(k).t(), torch.zeros_like(v).t()
        for g_block, q_block, of_q_block in _blocks(g.contiguous(), q, of_q):
            weights = product(q_block, k).softmax(-1)
            sum_of_v += product(g_block.t(), weights.t())
            of_scores = product(g_block, v)
            torch.ops.aten._softmax_backward_data.out(
                of_scores, weights, -1, weights.dtype, grad_input=of_scores
            )
            of_q_block.copy_(product(of_scores, k.t()))
            sum_of_k += product(q_block.t(), of_scores.t())
        of_v.copy_(sum_of_v.t())
        torch.mul(sum_of_k.t(), _scale(q), out=of_k)
    return of_qkv


def _heads(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """[T, ..., head_dim] of one sequence and head after the other, of each [N, T, ..., heads, head_dim]."""
    for sequences in zip(*tensors, strict=True):
        yield from zip(*(x.unbind(-2) for x in sequences), strict=True)


def _scaled(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, each [T, head_dim], of [T, 3, head_dim]; k is scaled as softmax wants the scores."""
    q, k, v = qkv.unbind(1)
    return q.contiguous(), (k * _scale(k)).contiguous(), v.contiguous()


def _scale(x: Tensor) -> float:
    return float(x.shape[-1] ** -0.5)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of rows of each [T, head_dim], of nearly equal size."""
    tokens = len(tensors[0])
    count = -(-tokens // max(SCORES // tokens, FEWEST_ROWS))
    return zip(*(x.tensor_split(count) for x in tensors), strict=True)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> Tensor:
    of_qkv: Tensor = _gradient(gradient, *ctx.saved_tensors)
    return of_qkv


attend_by_products.register_autograd(_backward, setup_context=_keep)
