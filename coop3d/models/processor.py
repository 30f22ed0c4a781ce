"""When a layer may replace PyTorch's kernels for CPUs by faster ones."""

from __future__ import annotations

import torch
from torch import Tensor


def runs_plainly(*tensors: Tensor) -> bool:
    """Whether an operation on them would run at once, in float32, on a CPU."""
    return (
        not torch.compiler.is_compiling()
        and type(tensors[0]) is Tensor  # not a tensor of shapes only, which stands for one on a GPU
        and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)
        and not torch.is_autocast_enabled("cpu")
    )


def has_avx512() -> bool:
    """Whether PyTorch found these instructions."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()
