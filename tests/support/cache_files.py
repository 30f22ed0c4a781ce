"""Comparing panorama cache files, and killing builds for real."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np


def contents(path: Path) -> dict[str, bytes | str]:
    """Every dataset (type, shape, bytes, and how it is stored) and every attribute of a file."""
    found: dict[str, bytes | str] = {}

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            value = item[()]
            text = value.dtype == object
            found[name] = b"\0".join(value.tolist()) if text else np.ascontiguousarray(value).tobytes()
            found[f"{name} is"] = f"{item.dtype} {item.shape} {item.chunks} {item.compression} {item.shuffle}"
        else:
            found[f"{name} is"] = "group"

    with h5py.File(path, "r") as file:
        file.visititems(visit)
        found |= {f"@{name}": repr(value) for name, value in file.attrs.items()}
    return found


def kill_while(task: Callable[[], object]) -> None:
    """Run ``task``, which is to end in SIGKILL of its own process, in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=task)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, f"the task was not killed: exit code {process.exitcode}"


def die() -> None:
    """As the kernel's out-of-memory killer would have it."""
    os.kill(os.getpid(), signal.SIGKILL)
