"""When a layer may replace PyTorch's kernels for CPUs by faster ones."""

from __future__ import annotations

import torch
from torch import Tensor


def runs_plainly(x: Tensor, weight: Tensor) -> bool:
    """Whether an operation on both would run at once, in float32, on a CPU."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor  # not a tensor of shapes only, which stands for one on a GPU
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


def has_avx512() -> bool:
    """Whether PyTorch found these instructions."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()
