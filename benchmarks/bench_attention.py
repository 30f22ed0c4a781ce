"""Attention at the sizes of benchmarks/bench_model.py: PyTorch's kernel, and products of matrices by oneDNN.

Forward and backward pass, in 1e9 operations per second (the scores that the backward pass computes again count).
Rounding is the relative L2 distance from float64. ``taken`` says which of both `coop3d.models.attention` takes on this
machine.

python benchmarks/bench_attention.py --output benchmarks/results/attention.json
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from bench_model import THREADS, hardware
from measure import output_asked_for, report, speed_and_rounding
from torch import Tensor

from coop3d.models.linear import mkl_is_slow
from coop3d.models.product_attention import attend_by_products

TOKENS = 1 + 18 * 72  # of a view
# Sequences, tokens, heads, channels of a head.
LAYERS = {"views": (2, TOKENS, 6, 64), "scene": (1, 2 * TOKENS + 1, 6, 64)}


def measure(N: int, T: int, heads: int, channels: int) -> dict[str, Any]:
    """Speed and rounding of both passes, each way."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(N, T, 3, heads, channels, generator=generator)
    gradient = torch.randn(N, T, heads, channels, generator=generator)
    exact = {name: task() for name, task in _passes(by_pytorch, qkv.double(), gradient.double()).items()}
    ways = {"pytorch": by_pytorch, "onednn": attend_by_products}
    tasks = {way: _passes(attention, qkv, gradient) for way, attention in ways.items()}
    product = 2 * N * heads * T * T * channels
    return {
        name: {way: speed_and_rounding(tasks[way][name], exact[name], n * product, 15, 3) for way in ways}
        for name, n in {"forward": 2, "backward": 5}.items()
    }


def by_pytorch(qkv: Tensor) -> Tensor:
    """As `coop3d.models.attention` calls it."""
    return F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).contiguous()).transpose(1, 2)


def _passes(
    attention: Callable[[Tensor], Tensor], qkv: Tensor, gradient: Tensor
) -> dict[str, Callable[[], Tensor]]:
    leaf = qkv.clone().requires_grad_()
    out = attention(leaf)
    return {
        "forward": lambda: attention(qkv),
        "backward": lambda: torch.autograd.grad(out, leaf, gradient, retain_graph=True)[0],
    }


def main() -> None:
    output = output_asked_for(__doc__)
    torch.set_num_threads(THREADS)
    result = {
        "command": "python benchmarks/bench_attention.py",
        "hardware": hardware(),
        "taken": "onednn" if mkl_is_slow() else "pytorch",
        "layers": {name: measure(*shape) for name, shape in LAYERS.items()},
    }
    report(result, output)


if __name__ == "__main__":
    main()
