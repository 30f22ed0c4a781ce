"""Attention as products of matrices by oneDNN: on AMD processors with AVX-512 PyTorch's kernel has half the speed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from coop3d.models.linear import mkl_is_slow, product
from coop3d.models.processor import runs_plainly

# With fewer tokens the overhead of a call is more than what it saves.
FEWEST_TOKENS = 1000
# Scores at a time: 3 MB, which stay in the cache from one operation to the next; and the fewest rows of a product.
SCORES, FEWEST_ROWS = 800_000, 256


def products_are_faster(q: Tensor, k: Tensor) -> bool:
    """Whether `attend_by_products` is the faster one of this machine's attentions, and computes what is asked for."""
    return runs_plainly(q, k) and q.shape[2] >= FEWEST_TOKENS and mkl_is_slow()


@torch.library.custom_op("coop3d::attend_by_products", mutates_args=())
def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` by oneDNN's products, a block of one head's queries at a time.

    One operation to PyTorch, so that a selective checkpoint keeps its result and not the scores inside.

    Args:
        q: [N, heads, T, head_dim], float32 on a CPU, T > 0; so are ``k`` and ``v``.

    Returns:
        [N, heads, T, head_dim].
    """
    out = q.new_empty(q.shape)
    for q_head, k_head, v_head, of_head in _heads(q, k * q.shape[-1] ** -0.5, v, out):
        for q_block, of_block in _blocks(q_head, of_head):
            of_block.copy_(product(product(q_block, k_head).softmax(-1), v_head.t()))
    return out


@torch.library.custom_op("coop3d::attend_by_products_backward", mutates_args=())
def _gradients(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; the scores are computed again."""
    scale = q.shape[-1] ** -0.5
    of_q, of_k, of_v = (x.new_empty(x.shape) for x in (q, k, v))
    tensors = (gradient.contiguous(), q, k * scale, v, of_q, of_k, of_v)
    for g_head, q_head, k_head, v_head, of_q_head, of_k_head, of_v_head in _heads(*tensors):
        # Transposed, [head_dim, T]: oneDNN copies its first operand to transpose it, which should be the small one.
        sum_of_k, sum_of_v = k_head.new_zeros(k_head.t().shape), v_head.new_zeros(v_head.t().shape)
        for g_block, q_block, of_q_block in _blocks(g_head, q_head, of_q_head):
            weights = product(q_block, k_head).softmax(-1)
            sum_of_v += product(g_block.t(), weights.t())
            of_scores = product(g_block, v_head)
            torch.ops.aten._softmax_backward_data.out(
                of_scores, weights, -1, weights.dtype, grad_input=of_scores
            )
            of_q_block.copy_(product(of_scores, k_head.t()))
            sum_of_k += product(q_block.t(), of_scores.t())
        of_v_head.copy_(sum_of_v.t())
        torch.mul(sum_of_k.t(), scale, out=of_k_head)
    return of_q, of_k, of_v


def _heads(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """One [T, head_dim] after the other of each [N, heads, T, head_dim]."""
    return zip(*(x.flatten(0, 1) for x in tensors), strict=True)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of rows of each [T, head_dim], of nearly equal size."""
    tokens = len(tensors[0])
    count = -(-tokens // max(SCORES // tokens, FEWEST_ROWS))
    return zip(*(x.tensor_split(count) for x in tensors), strict=True)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = _gradients(gradient, *ctx.saved_tensors)
    return gradients


attend_by_products.register_autograd(_backward, setup_context=_keep)
