"""A trained model as one small file to hand on: half-precision weights and what it takes to build and judge them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from coop3d.files import replacing
from coop3d.training.checkpoint import FORMAT, VERSION, load_checkpoint
from coop3d.training.overrides import overridden

KEPT = ("step", "config", "git", "best")  # nothing that only training needs


def publish_checkpoint(source: Path, target: Path, overrides: Sequence[str] = ()) -> int:
    """Write ``target`` from a training checkpoint; it opens wherever a checkpoint does, but no run resumes from it.

    Weights are the averaged ones (EMA) where the run has them, rounded to float16: relative 5e-4, far below what
    training noise moves.

    Args:
        source: ``checkpoint-*.pth`` of a run.
        target: replaced only when whole.
        overrides: ``key=value`` changes of the saved config, such as options of inference chosen after training.

    Returns:
        Its size in bytes.

    Raises:
        CheckpointError: if the source is none.
        ConfigError: if an override names no key of the saved config.
        ValueError: if a weight does not fit into float16.
    """
    state = load_checkpoint(source)
    weights = state.get("ema") or state["model"]
    payload: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        **{k: state[k] for k in KEPT if k in state},
    }
    payload["config"] = OmegaConf.to_container(overridden(state["config"], overrides))
    payload["model"] = {name: _half(name, x) for name, x in weights.items()}
    with replacing(target) as path:
        torch.save(payload, path)
    return target.stat().st_size


def _half(name: str, x: Tensor) -> Tensor:
    half = x.half() if x.is_floating_point() else x
    if not torch.isfinite(half).all():
        raise ValueError(f"{name}: a weight of {float(x.abs().max()):g} does not fit into float16 (65504)")
    return half
