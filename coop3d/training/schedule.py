"""Learning rate as a closed form of the optimiser step, and the optimiser's parameter groups."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from coop3d.models.lora import is_adapter
from coop3d.training.muon import Muon, is_matrix

ENCODER_PREFIX = "encoder."


def lr_factor(step: int, warmup_steps: int, total_steps: int, min_factor: float = 0.0) -> float:
    """Factor on the learning rate of the update number ``step`` (from 0).

    Rises linearly to 1 over ``warmup_steps`` (the first update already moves), then follows half a cosine
    down to ``min_factor`` at ``total_steps``.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return min_factor + (1.0 - min_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, encoder_lr_factor: float, orthogonal: bool = False
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: (encoder or not) x (decayed or not), and what Muon updates apart.

    Norms, biases and other vectors are not decayed. Parameters whose name starts with ``encoder.`` learn at
    ``lr * encoder_lr_factor``, which spares pretrained weights; adapters, which start from nothing, at ``lr``.
    With ``orthogonal`` matrices and kernels are groups of their own.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        encoder = name.startswith(ENCODER_PREFIX) and not is_adapter(name)
        decay = parameter.ndim >= 2
        matrix = orthogonal and is_matrix(parameter)
        kind = "_matrices" if matrix else "" if decay else "_no_decay"
        group_name = f"{'encoder' if encoder else 'rest'}{kind}"
        base_lr = lr * (encoder_lr_factor if encoder else 1.0)
        group = groups.setdefault(
            group_name,
            {
                "params": [],
                "name": group_name,
                "base_lr": base_lr,
                "lr": base_lr,
                "weight_decay": weight_decay if decay else 0.0,
                "orthogonal": matrix,
            },
        )
        group["params"].append(parameter)
    if not groups:
        raise ValueError(
            "The model has no trainable parameter; check the fine-tuning preset of the model config."
        )
    return [groups[name] for name in sorted(groups)]


def make_optimizer(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW over the groups, fused: one pass over all parameters. Muon where a group is ``orthogonal``."""
    if any(group["orthogonal"] for group in groups):
        return Muon(groups, betas)
    return torch.optim.AdamW(groups, betas=betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to its own base rate times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
