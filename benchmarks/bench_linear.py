"""Products of a linear layer at the sizes of benchmarks/bench_model.py: PyTorch's own (MKL), and by oneDNN.

Forward pass, gradient of the input and of the weights, in 1e9 operations per second. Rounding is the relative L2
distance from the product in float64. ``taken`` says which of both `coop3d.models.linear` takes on this machine.

python benchmarks/bench_linear.py --output benchmarks/results/linear.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_model import THREADS, hardware
from measure import median_ms, report
from torch import Tensor

from coop3d.models.linear import mkl_is_slow, product, weight_gradient

ROWS = 2 * (1 + 18 * 72)  # tokens of two views
# Channels before and after.
LAYERS = {"qkv": (384, 1152), "proj": (384, 384), "w12": (384, 2048), "w3": (1024, 384)}


def measure(before: int, after: int) -> dict[str, Any]:
    """Speed and rounding of the three products of one layer."""
    generator = torch.Generator().manual_seed(0)
    x, weight, gradient = (
        torch.randn(s, generator=generator) for s in ((ROWS, before), (after, before), (ROWS, after))
    )
    ways: dict[str, dict[str, Callable[[], Tensor]]] = {
        "forward": {"mkl": lambda: x @ weight.t(), "onednn": lambda: product(x, weight)},
        "of_input": {"mkl": lambda: gradient @ weight, "onednn": lambda: product(gradient, weight.t())},
        "of_weights": {"mkl": lambda: gradient.t() @ x, "onednn": lambda: weight_gradient(gradient, x)},
    }
    exact = {
        "forward": x.double() @ weight.double().t(),
        "of_input": gradient.double() @ weight.double(),
        "of_weights": gradient.double().t() @ x.double(),
    }
    operations = 2 * ROWS * before * after
    return {
        name: {way: _one(task, exact[name], operations) for way, task in both.items()}
        for name, both in ways.items()
    }


def _one(task: Callable[[], Tensor], exact: Tensor, operations: int) -> dict[str, float]:
    milliseconds = median_ms(task, repeats=25)
    rounding = float((task().double() - exact).norm() / exact.norm())
    return {
        "ms": milliseconds,
        "gflops": round(operations / milliseconds / 1e6),
        "rounding": float(f"{rounding:.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    result = {
        "command": "python benchmarks/bench_linear.py",
        "hardware": hardware(),
        "taken": "onednn" if mkl_is_slow() else "mkl",
        "layers": {name: measure(*sizes) for name, sizes in LAYERS.items()},
    }
    report(result, args.output)


if __name__ == "__main__":
    main()
