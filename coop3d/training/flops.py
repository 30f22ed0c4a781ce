"""Floating-point operations of a training step, counted on tensors that have shapes but no contents."""

from __future__ import annotations

import copy
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from coop3d.types import ViewInputs

log = logging.getLogger(__name__)

BACKWARD_FACTOR = (
    3  # one forward pass, and twice as much in the backward pass; recomputation is no useful work
)


def _attention_flops(q: torch.Size, k: torch.Size, v: torch.Size, *_: object, **__: object) -> int:
    return sdpa_flop_count(q, k, v)


# The attention kernel that tensors without contents use on any machine; PyTorch's own table lacks it (2.13).
UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


class FlopCounter:
    """Operations per micro-batch by its shape. Made before the model is sharded; keeps shapes only."""

    def __init__(self, model: nn.Module) -> None:
        self._model: nn.Module | None = _copy(model, torch.device("meta"))
        self._known: dict[tuple[int, ...], float] = {}

    def of_step(self, inputs: ViewInputs) -> float:
        """Operations of forward and backward pass of one micro-batch; 0 where they cannot be counted."""
        if inputs.shape not in self._known:
            self._known[inputs.shape] = BACKWARD_FACTOR * self._forward(inputs)
        return self._known[inputs.shape]

    def _forward(self, inputs: ViewInputs) -> float:
        if self._model is None:
            return 0.0
        from coop3d.models.memory import shapes_only  # imports a good part of torch's compiler

        counting = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
        try:
            with _undisturbed(), shapes_only(), torch.no_grad(), counting as counter:
                model = _copy(self._model, torch.device("cpu"))
                model(inputs._map(lambda x: torch.empty(x.shape, dtype=x.dtype)))
            return float(counter.get_total_flops())
        except Exception as error:  # a statistic that depends on torch's internals must not stop the run
            log.warning("Operations are not counted (%s: %s).", type(error).__name__, error)
            self._model = None
            return 0.0


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore SIGCHLD here: the DataLoader's handler raises RuntimeError when a worker dies, at any line.

    Inside the counter it would be reported as a counting failure and leave dispatch modes active. The loader notices a
    dead worker by itself when it is asked for the next batch.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def _copy(model: nn.Module, device: torch.device) -> nn.Module:
    """The same model with new tensors of the same shapes and no values."""
    memo = {id(b): torch.empty(b.shape, dtype=b.dtype, device=device) for b in model.buffers()}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device=device), requires_grad=False)
    return copy.deepcopy(model, memo)
