"""Gradient of a 3x3 convolution's weights on the dense head's maps: PyTorch's own, and as matrix products.

The sizes are those of benchmarks/bench_model.py, two views, channels last: the levels of the dense head that take time.
Speeds are in 1e9 operations per second; the product of two large matrices says what the machine can do. Rounding is the
relative L2 distance from the gradient in float64.

python benchmarks/bench_convolution.py --output benchmarks/results/convolution.json
"""

from __future__ import annotations

from typing import Any

import torch
from bench_model import THREADS, VIEWS, hardware, product_gflops
from measure import output_asked_for, report, speed_and_rounding
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
    return result | {
        name: speed_and_rounding(way, exact, operations, repeats=5, warm_up=1) for name, way in ways.items()
    }


def main() -> None:
    output = output_asked_for(__doc__)
    torch.set_num_threads(THREADS)
    result = {
        "command": "python benchmarks/bench_convolution.py",
        "hardware": hardware(),
        "processor_instructions": torch.backends.cpu.get_cpu_capability(),
        "product_gflops": round(product_gflops()),
        "levels": [measure(*level) for level in LEVELS],
    }
    report(result, output)


if __name__ == "__main__":
    main()
