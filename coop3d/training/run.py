"""A trained run, opened again: its model, its config and the datasets it was made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from coop3d.conf import ConfigError, require_paths
from coop3d.training.checkpoint import CheckpointError, load_checkpoint
from coop3d.training.data import CoopDataset

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Run:
    """A model in evaluation mode with its trained weights, and the config it was trained with."""

    model: nn.Module
    config: DictConfig
    checkpoint: Path
    step: int

    def dataset(self, split: str) -> CoopDataset:
        """The dataset of a split as the run's config describes it; only ``train`` is augmented.

        Raises:
            ConfigError: if there is no such split, or its data roots do not exist.
        """
        if split not in SPLITS:
            raise ConfigError(f"split={split} is not one of {', '.join(SPLITS)}.")
        if split not in self.config.dataset:
            raise ConfigError(f"{self.checkpoint}: the config saved with this run has no dataset.{split}.")
        require_paths(self.config)
        return hydra.utils.instantiate(self.config.dataset[split])


def load_run(
    checkpoint_path: str | Path, device: torch.device | str = "cpu", overrides: Sequence[str] = ()
) -> Run:
    """Open a checkpoint written by training.

    Args:
        checkpoint_path: a ``checkpoint-*.pth``, or the run directory (its best checkpoint is taken).
        device: where the model goes.
        overrides: ``key=value`` changes of the saved config, e.g. ``machine.opv2v_images_root=/data/opv2v``.

    Raises:
        CheckpointError: if the file is damaged, or its weights do not fit the model its config describes.
        ConfigError: if an override names no key of the saved config.
    """
    path = Path(checkpoint_path)
    if path.is_dir():
        path = path / "checkpoint-best.pth"
    state = load_checkpoint(path)
    config = _overridden(state["config"], overrides)
    model = hydra.utils.instantiate(_without_pretrained(config))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its weights do not fit the model of its config: {error}. "
            f"The code changed since revision {state['git']['revision']}."
        ) from error
    return Run(model.to(device).eval(), config, path, state["step"])


def _without_pretrained(config: DictConfig) -> DictConfig:
    """The model's node; weights come from this checkpoint, so those it started from are not needed."""
    node = config.model.copy()
    if OmegaConf.select(node, "model_config.pretrained_checkpoint_path") is not None:
        OmegaConf.update(node, "model_config.pretrained_checkpoint_path", None)
    return node


def _overridden(saved: dict, overrides: Sequence[str]) -> DictConfig:
    """The saved (fully resolved) config with changes; a data root that changes, changes in every dataset."""
    config = OmegaConf.create(saved)
    before = dict(config.machine) if "machine" in config else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"overrides: {override!r} is not key=value.")
        if OmegaConf.select(config, key, default=...) is ...:
            raise ConfigError(f"overrides: the config saved with the run has no key {key!r}.")
        OmegaConf.update(config, key, OmegaConf.create(f"v: {value}").v)
    for name, old in before.items():
        new = config.machine[name]
        if isinstance(old, str) and new != old:
            _replace_values(config.dataset, old, new)
    return config


def _replace_values(node: DictConfig, old: str, new: str) -> None:
    for key, value in node.items():
        if isinstance(value, DictConfig):
            _replace_values(value, old, new)
        elif value == old:
            node[key] = new
