"""Processes that inherit nothing from a test and yet start at once: forks of a server that has imported torch.

Everything reaches them pickled, as with ``spawn``, whose processes spend seconds on imports.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable

import torch
import torch.multiprocessing

METHOD = "forkserver"
CLEAN = multiprocessing.get_context(METHOD)
CLEAN.set_forkserver_preload(
    [
        "pytest",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torch.utils.tensorboard",
        "coop3d.training",
        "coop3d.benchmark",
    ]
)


def run_ranks(work: Callable[..., None], *arguments: object, world_size: int = 2) -> None:
    """``work(rank, *arguments)`` in as many processes, with what torchrun tells each; an error of one is raised."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(
        _as_torchrun, (world_size, port, work, arguments), nprocs=world_size, start_method=METHOD
    )


def _as_torchrun(
    rank: int, world_size: int, port: int, work: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)  # as tests/conftest.py does
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    work(rank, *arguments)
