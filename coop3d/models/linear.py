"""Linear layer that uses all of a processor: PyTorch's own does not on AMD's with AVX-512."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop3d.models.processor import has_avx512, runs_plainly

# Below so many multiplications a call's overhead is more than what it saves.
FEWEST_PRODUCTS = 1_000_000


class Linear(nn.Linear):
    """`torch.nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C']."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`; on AMD processors with AVX-512 by oneDNN's product of matrices in place of MKL's.

    MKL takes its AVX2 code there, which has half the speed (benchmarks/bench_linear.py). Elsewhere, and for other types
    than float32, nothing changes.
    """
    if not (runs_plainly(x, weight) and x.numel() * len(weight) >= FEWEST_PRODUCTS and mkl_is_slow()):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        out: Tensor = _ByOneDnn.apply(x, weight, bias)
        return out
    return product(x, weight, bias)


@cache
def mkl_is_slow() -> bool:
    """Whether this is an AMD processor with AVX-512 and PyTorch has oneDNN beside MKL."""
    return (
        has_avx512()
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and "AuthenticAMD" in _processor()
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    return info.read_text() if info.exists() else ""


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b.T + bias`` of [..., K] and [N, K], float32, by oneDNN; what PyTorch's compiler calls on CPUs."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return out


class _ByOneDnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            product(gradient, weight.t()) if of_x else None,
            weight_gradient(rows, x.flatten(0, -2)) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Gradient of a layer's weights, ``gradient.T @ x`` of [M, C'] and [M, C], by oneDNN.

    Its first operand is transposed by a copy: let that be the narrower one.
    """
    if x.shape[1] < gradient.shape[1]:
        return product(x.t(), gradient.t()).t()
    return product(gradient.t(), x.t())
