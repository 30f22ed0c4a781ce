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
# Sequences, heads, tokens, channels of a head.
LAYERS = {"views": (2, 6, TOKENS, 64), "scene": (1, 6, 2 * TOKENS + 1, 64)}


def measure(shape: tuple[int, int, int, int]) -> dict[str, Any]:
    """Speed and rounding of both passes, each way."""
    generator = torch.Generator().manual_seed(0)
    *inputs, gradient = (torch.randn(shape, generator=generator) for _ in range(4))
    N, heads, T, channels = shape
    product = 2 * N * heads * T * T * channels
    in_float64 = _passes(F.scaled_dot_product_attention, [x.double() for x in inputs], gradient.double())
    exact = {name: task() for name, task in in_float64.items()}
    ways = {"pytorch": F.scaled_dot_product_attention, "onednn": attend_by_products}
    tasks = {way: _passes(attention, inputs, gradient) for way, attention in ways.items()}
    return {
        name: {way: speed_and_rounding(tasks[way][name], exact[name], n * product, 15, 3) for way in ways}
        for name, n in {"forward": 2, "backward": 5}.items()
    }


def _passes(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: list[Tensor], gradient: Tensor
) -> dict[str, Callable[[], Tensor]]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = attention(*leaves)
    return {
        "forward": lambda: attention(*inputs),
        "backward": lambda: torch.stack(torch.autograd.grad(out, leaves, gradient, retain_graph=True)),
    }


def main() -> None:
    output = output_asked_for(__doc__)
    torch.set_num_threads(THREADS)
    result = {
        "command": "python benchmarks/bench_attention.py",
        "hardware": hardware(),
        "taken": "onednn" if mkl_is_slow() else "pytorch",
        "layers": {name: measure(shape) for name, shape in LAYERS.items()},
    }
    report(result, output)


if __name__ == "__main__":
    main()
