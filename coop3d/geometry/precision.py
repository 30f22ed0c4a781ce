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
    newer = hasattr(
        products, "fp32_precision"
    )  # the switch of PyTorch 2.9; a process that uses it may not use the other
    before = products.fp32_precision if newer else torch.get_float32_matmul_precision()
    _set_products(newer, "ieee" if newer else "highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        _set_products(newer, before)


def _set_products(newer: bool, precision: str) -> None:
    if newer:
        torch.backends.cuda.matmul.fp32_precision = precision
    else:
        torch.set_float32_matmul_precision(precision)
