"""A trained run, opened again: its model, its config and the datasets it was made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from coop3d.conf import ConfigError, build, has_key, require_paths
from coop3d.training.checkpoint import BEST, CheckpointError, load_checkpoint
from coop3d.training.data import CoopDataset
from coop3d.training.network import build_network
from coop3d.training.overrides import overridden

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Run:
    """A model in evaluation mode with its trained weights, and the config it was trained with."""

    model: nn.Module
    config: DictConfig
    checkpoint: Path
    step: int

    def dataset(self, split: str) -> CoopDataset:
        """The dataset of a split as the run's config describes it, as it was recorded: nothing is augmented.

        Raises:
            ConfigError: if there is no such split, or its data roots do not exist.
        """
        if split not in SPLITS:
            raise ConfigError(f"split={split} is not one of {', '.join(SPLITS)}.")
        if split not in self.config.dataset:
            raise ConfigError(f"{self.checkpoint}: the config saved with this run has no dataset.{split}.")
        require_paths(self.config, how="'overrides=[{key}=/path/to/it]'")
        return build(without_augmentation(self.config, split), f"dataset.{split}")


def without_augmentation(config: DictConfig, split: str) -> DictConfig:
    """A copy of a config whose dataset of this split is not augmented."""
    config = config.copy()
    if has_key(config, f"dataset.{split}.augmentation"):
        OmegaConf.update(config, f"dataset.{split}.augmentation", None)
    return config


def load_run(
    checkpoint_path: str | Path, device: torch.device | str = "cpu", overrides: Sequence[str] = ()
) -> Run:
    """Open a checkpoint written by training.

    Args:
        checkpoint_path: a ``checkpoint-*.pth``, or the run directory (its best checkpoint is taken).
        device: where the model goes.
        overrides: ``key=value`` changes of the saved config, e.g. ``machine.opv2v_images_root=/data/opv2v``, or a
            file of a config group, e.g. ``machine=local3090``.

    Raises:
        CheckpointError: if the file is damaged, or its weights do not fit the model its config describes.
        ConfigError: if an override names no key of the saved config.
    """
    path = Path(checkpoint_path)
    if path.is_dir():
        path = path / BEST
    state = load_checkpoint(path, mapped=True)  # moments are never read
    config = overridden(state["config"], overrides)
    model = build_network(without_pretrained(config))
    try:
        model.load_state_dict(state.get("ema") or state["model"])  # what validation measured
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its weights do not fit the model of its config: {error}. "
            f"The code changed since revision {state['git']['revision']}."
        ) from error
    return Run(model.to(device).eval(), config, path, state["step"])


def without_pretrained(config: DictConfig) -> DictConfig:
    """The config without the weights training started from: this checkpoint's replace them."""
    key = "model.model_config.pretrained_checkpoint_path"
    if has_key(config, key):
        config = config.copy()
        OmegaConf.update(config, key, None)
    return config
