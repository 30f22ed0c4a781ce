"""Work buffers that live from call to call: for megabytes, the kernel's fresh zeroed pages cost as much as the work."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import DTypeLike, NDArray

_local = threading.local()


def scratch(purpose: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """An array with whatever the last user of this purpose, shape and thread left in it.

    One array is kept per purpose and thread; it must not outlive the caller's own call.
    """
    kept: dict[str, NDArray] = _local.__dict__.setdefault("kept", {})
    array = kept.get(purpose)
    if array is None or array.shape != shape or array.dtype != dtype:
        array = kept[purpose] = np.empty(shape, dtype)
    return array
