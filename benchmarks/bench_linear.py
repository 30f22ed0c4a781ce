"""Products of a linear layer at the sizes of benchmarks/bench_model.py: PyTorch's own (MKL), and by oneDNN.

Forward pass, gradient of the input and of the weights, in 1e9 operations per second. Rounding is the relative L2
distance from the product in float64. ``taken`` says which of both `coop3d.models.linear` takes on this machine.

python benchmarks/bench_linear.py --output benchmarks/results/linear.json
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from bench_model import THREADS, hardware
from measure import output_asked_for, report, speed_and_rounding
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
        name: {way: speed_and_rounding(task, exact[name], operations, 25, 3) for way, task in both.items()}
        for name, both in ways.items()
    }


def main() -> None:
    output = output_asked_for(__doc__)
    torch.set_num_threads(THREADS)
    result = {
        "command": "python benchmarks/bench_linear.py",
        "hardware": hardware(),
        "taken": "onednn" if mkl_is_slow() else "mkl",
        "layers": {name: measure(*sizes) for name, sizes in LAYERS.items()},
    }
    report(result, output)


if __name__ == "__main__":
    main()
