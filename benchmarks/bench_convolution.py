"""Gradient of a 3x3 convolution's weights on the dense head's maps: PyTorch's own, and as matrix products.

The sizes are those of benchmarks/bench_model.py, two views, channels last: the levels of the dense head that take time.
Speeds are in 1e9 operations per second; the product of two large matrices says what the machine can do. Rounding is the
relative L2 distance from the gradient in float64.

python benchmarks/bench_convolution.py --output benchmarks/results/convolution.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from bench_model import THREADS, VIEWS, hardware, product_gflops
from measure import median_ms, report
from torch import Tensor

from coop3d.models.convolution import Window, weight_gradient

KERNEL, SAME = (3, 3), Window((1, 1), (1, 1), (1, 1))
LEVELS = ((64, 64, 252, 1008), (128, 64, 144, 576), (128, 128, 72, 288), (128, 128, 36, 144))  # C, C', H, W


def by_pytorch(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """What a convolution's backward pass calls."""
    arguments = (*SAME, False, (0, 0), 1, (False, True, False))
    found: Tensor = torch.ops.aten.convolution_backward(gradient, x, weight, None, *arguments)[1]
    return found


def measure(before: int, after: int, H: int, W: int) -> dict[str, Any]:
    """Speed and rounding of one level."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((VIEWS, before, H, W), (VIEWS, after, H, W), (after, before, *KERNEL))
    x, gradient, weight = (
        torch.randn(s, generator=generator).to(memory_format=torch.channels_last) for s in shapes
    )
    exact = by_pytorch(gradient.double(), x.double(), weight.double())
    operations = 2 * VIEWS * H * W * before * after * KERNEL[0] * KERNEL[1]
    ways = {
        "pytorch_channels_last": lambda: by_pytorch(gradient, x, weight),
        "pytorch_rows_last": lambda: by_pytorch(gradient.contiguous(), x.contiguous(), weight.contiguous()),
        "matrix_products": lambda: weight_gradient(gradient, x, KERNEL, SAME),
    }
    result: dict[str, Any] = {"level": f"{before} -> {after} channels, {VIEWS} x {H} x {W}"}
    for name, way in ways.items():
        milliseconds = median_ms(way, repeats=5, warm_up=1)
        rounding = float((way().double() - exact).norm() / exact.norm())
        result[name] = {
            "ms": milliseconds,
            "gflops": round(operations / milliseconds / 1e6),
            "rounding": float(f"{rounding:.1e}"),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    result = {
        "command": "python benchmarks/bench_convolution.py",
        "hardware": hardware(),
        "processor_instructions": torch.backends.cpu.get_cpu_capability(),
        "product_gflops": round(product_gflops()),
        "levels": [measure(*level) for level in LEVELS],
    }
    report(result, args.output)


if __name__ == "__main__":
    main()
