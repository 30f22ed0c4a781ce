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
    """Restore moments; groups, rates and decay stay as configured now, so a resumed run may change them."""
    names = {id(p): name for name, p in model.named_parameters()}
    members = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    moments = _of_every_parameter(optimizer, members, _by_name(members, state))
    groups = [{**g, "params": params} for g, params in zip(optimizer.param_groups, members, strict=True)]
    whole: dict[str, Any] = {"state": moments, "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, whole, options=StateDictOptions(full_state_dict=True))
    _join_fused_steps(optimizer)


def _join_fused_steps(optimizer: torch.optim.Optimizer) -> None:
    """Move step counts, on the CPU in runs begun there, to the device of the moments: a fused optimiser needs it."""
    fused = {p for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    for p in fused & optimizer.state.keys():
        moments = optimizer.state[p]
        moments["step"] = moments["step"].to(local(p).device, torch.float32)


def _by_name(members: list[list[str]], state: dict[str, Any]) -> dict[str, Any]:
    """Moments by name; version 1 of the checkpoints numbered the parameters."""
    ordered = [name for group in members for name in group]
    return {ordered[key] if isinstance(key, int) else key: v for key, v in state["state"].items()}


def _of_every_parameter(
    optimizer: torch.optim.Optimizer, members: list[list[str]], saved: dict[str, Any]
) -> dict[str, Any]:
    """Zero moments for trained parameters without any of the kind that the optimiser keeps.

    There are none of a parameter that never had a gradient, and others where another optimiser began the run.
    """
    shapes = {
        name: _moment_shapes(parameter, group)
        for group, names in zip(optimizer.param_groups, members, strict=True)
        for name, parameter in zip(names, group["params"], strict=True)
    }
    fresh = [name for name, kinds in shapes.items() if saved.get(name, {}).keys() != kinds.keys()]
    if fresh:
        log.info(
            "No moments of %s: they never had a gradient, train only now, or had another optimiser.",
            ", ".join(fresh),
        )
    return {
        name: {
            kind: torch.zeros(shape) if name in fresh else _shaped(saved[name][kind], shape)
            for kind, shape in kinds.items()
        }
        for name, kinds in shapes.items()
    }


def _moment_shapes(parameter: torch.Tensor, group: dict[str, Any]) -> dict[str, torch.Size]:
    """What the optimiser keeps of a parameter, and its shape."""
    if group.get("orthogonal", False):
        return {"momentum": parameter.shape}
    return {"step": torch.Size(()), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}


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
