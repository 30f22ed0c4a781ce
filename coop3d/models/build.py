"""From a configuration to a model with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from coop3d.models.checkpoints import load_checkpoint
from coop3d.models.config import MapAnythingConfig, from_mapping
from coop3d.models.mapanything import MapAnything


def build_model(**config: Mapping[str, Any]) -> MapAnything:
    """Build a `MapAnything` from the sections of ``configs/model/*.yaml``, and load its checkpoint if any.

    Encoders whose input `ViewInputs` cannot carry are frozen (`MapAnything.freeze_unreachable`).

    Args:
        config: ``model_config``, ``encoder``, ``info_sharing``, ``pred_head``, ``geometric_inputs`` and
            ``panorama``; see `coop3d.models.config.MapAnythingConfig`.

    Raises:
        ValueError: for unknown, missing or wrong configuration values, or a checkpoint that does not fit.
        FileNotFoundError: if the checkpoint does not exist.
    """
    typed = from_mapping(MapAnythingConfig, config)
    path, parts = typed.model_config.pretrained_checkpoint_path, typed.model_config.pretrained_submodules
    if path is None:
        model = MapAnything(typed)
    elif parts is not None:
        model = MapAnything(typed)
        load_checkpoint(model, path, parts)
    else:
        with torch.device(
            "meta"
        ):  # no memory and no random numbers for weights that are about to be replaced
            model = MapAnything(typed)
        load_checkpoint(model, path)
    model.freeze_unreachable()
    return model
