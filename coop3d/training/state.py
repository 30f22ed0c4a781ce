"""Weights and optimiser state as whole tensors by parameter name, however they are divided over processes.

A checkpoint therefore loads with any number of processes, replicated or sharded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule

from coop3d.training.parallel import local

log = logging.getLogger(__name__)

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def model_state(model: nn.Module) -> dict[str, Any]:
    """Whole tensors on the CPU of process 0, nothing on the others; all processes call it."""
    return get_model_state_dict(model, options=WHOLE)


def load_model_state(model: nn.Module, state: dict[str, Any], strict: bool = True) -> None:
    """Inverse of :func:`model_state`; every process has ``state`` and takes its part of it."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = {name: _shaped(tensor, shapes.get(name)) for name, tensor in state.items()}
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, strict=strict))


def _shaped(tensor: torch.Tensor, shape: torch.Size | None) -> torch.Tensor:
    """Earlier checkpoints hold scalars without a dimension, which FSDP does not accept."""
    return tensor.reshape(1) if tensor.ndim == 0 and shape == (1,) else tensor


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """As :func:`model_state`, for moments, keyed by parameter name."""
    return get_optimizer_state_dict(model, optimizer, options=WHOLE)


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore moments; rates and decay stay as configured now, so a resumed run may change them."""
    keep = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    named = _with_every_parameter(model, _by_name(model, optimizer, state))
    set_optimizer_state_dict(model, optimizer, named, options=StateDictOptions(full_state_dict=True))
    for group, kept in zip(optimizer.param_groups, keep, strict=True):
        group.update(kept)
    _join_fused_steps(optimizer)


def _join_fused_steps(optimizer: torch.optim.Optimizer) -> None:
    """Move step counts, on the CPU in runs begun there, to the device of the moments: a fused optimiser needs it."""
    fused = {p for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    for p in fused & optimizer.state.keys():
        moments = optimizer.state[p]
        moments["step"] = moments["step"].to(local(p).device, torch.float32)


def _by_name(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Version 1 of the checkpoints numbered the parameters: replace numbers by names."""
    if not any(isinstance(key, int) for key in state["state"]):
        return state
    names = {id(p): name for name, p in model.named_parameters()}
    ordered = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    groups = [{**group, "params": [ordered[i] for i in group["params"]]} for group in state["param_groups"]]
    return {"state": {ordered[i]: v for i, v in state["state"].items()}, "param_groups": groups}


def _with_every_parameter(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Zero moments for trained parameters without any: AdamW has none of a parameter that never had a gradient."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    absent = [name for name in trained if name not in state["state"]]
    if absent:
        log.info("No moments of %s: they never had a gradient, or train only now.", ", ".join(absent))
    fresh = {
        name: {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros(trained[name].shape),
            "exp_avg_sq": torch.zeros(trained[name].shape),
        }
        for name in absent
    }
    shapes = {name: p.shape for name, p in trained.items()}
    moments = {
        name: {k: v if k == "step" else _shaped(v, shapes.get(name)) for k, v in kept.items()}
        for name, kept in state["state"].items()
    }
    return {**state, "state": {**moments, **fresh}}


class MovingAverage:
    """Exponential moving average of the parameters that train, each process keeping its own part."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._averages = [local(p).detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Account for one optimiser step."""
        torch._foreach_lerp_(self._averages, [local(p) for p in self._parameters], 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model's weights are the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            weights = local(parameter)
            kept = weights.clone()
            weights.copy_(average)
            average.copy_(kept)
        if isinstance(self.model, FSDPModule):
            self.model.reshard()  # a pass without gradients leaves the root's old weights gathered

    def state(self) -> dict[str, Any]:
        """Averages beside what does not train, as :func:`model_state`."""
        with self.applied():  # copies: what one process hands out on a CPU are the weights themselves
            return {name: value.clone() for name, value in model_state(self.model).items()}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`; the model's own weights are left as they are."""
        with self.applied():
            load_model_state(self.model, state)
