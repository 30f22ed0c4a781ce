"""Geometry in full float32, whatever the network computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Without autocast, and without TF32, which at 60 m is 3 cm off (10 bits of mantissa).

    The precision of matrix products is the process's: not for several threads at once.
    """
    products = torch.backends.cuda.matmul
    try:
        legacy = torch.get_float32_matmul_precision()
    except RuntimeError:
        # The process has used PyTorch's newer switch; products refuse to run with a mix of both.
        legacy, newer = None, products.fp32_precision
        products.fp32_precision = "ieee"
    else:
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        if legacy is None:
            products.fp32_precision = newer
        else:
            torch.set_float32_matmul_precision(legacy)
