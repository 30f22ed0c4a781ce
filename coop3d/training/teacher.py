"""The frozen model a student learns from."""

from __future__ import annotations

import logging

from omegaconf import DictConfig
from torch import nn

from coop3d.conf import ConfigError
from coop3d.losses import DistillationTerm, WeightedSum
from coop3d.training.run import load_run

log = logging.getLogger(__name__)


def build_teacher(cfg: DictConfig, loss_function: object) -> nn.Module | None:
    """Open the checkpoint ``train_params.teacher``, in evaluation mode and frozen; None where no term asks for it.

    Raises:
        ConfigError: if the loss needs a teacher and none is named, or the file does not exist.
        CheckpointError: if it cannot be used.
    """
    path = cfg.train_params.get("teacher")
    terms = loss_function.terms if isinstance(loss_function, WeightedSum) else {}
    eager = [name for name, term in terms.items() if isinstance(term, DistillationTerm)]
    if not eager:
        if path is not None:
            log.warning("train_params.teacher=%s is not used: no term of the loss learns from it.", path)
        return None
    if path is None:
        raise ConfigError(
            f"loss.terms.{eager[0]} needs a teacher: train_params.teacher=/path/to/checkpoint-best.pth (of a "
            f"run of this project), or drop the term (~loss.terms.{eager[0]})."
        )
    try:
        run = load_run(path)
    except FileNotFoundError as error:
        raise ConfigError(f"train_params.teacher: {error}") from error
    log.info("Teacher: %s (step %d).", run.checkpoint, run.step)
    return run.model.requires_grad_(False)
