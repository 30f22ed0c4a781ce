"""Trains and infers with a config on the device of `other_device`; in a process of its own, which knows that device."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from coop3d.conf import build, compose
from coop3d.geometry import EquirectangularCamera
from coop3d.training.distributed import Processes
from coop3d.training.launch import build_trainer

H, W = 32, 128


def train(run: Path, device: torch.device, overrides: list[str]) -> None:
    """One step and one validation, and again from the checkpoint."""
    run.mkdir()
    for epochs in (1, 2):
        cfg = compose("train", [*overrides, f"train_params.epochs={epochs}"])
        trainer = build_trainer(cfg, run, Processes(rank=0, world_size=1, device=device))
        trainer.fit()
        left = [n for n, p in trainer.model.named_parameters() if p.device != device]
        if left:
            raise RuntimeError(f"not on {device}: {left}")


def infer(device: torch.device, overrides: list[str]) -> torch.Tensor:
    """Range [V, H, W] of two random pictures by an untrained model."""
    torch.manual_seed(0)
    model = build(compose("train", overrides), "model").eval().to(device)
    pictures = np.random.default_rng(0).integers(0, 256, (2, H, W, 3), dtype=np.uint8)
    prediction = model.infer(
        [*pictures],
        rays=EquirectangularCamera(W, H),
        origins=np.zeros((H, W, 3), np.float32),
        views_at_once=1,
    )
    if prediction.points_ref.device != device:
        raise RuntimeError(f"points are on {prediction.points_ref.device}, not on {device}")
    found: torch.Tensor = prediction.range_m[0].cpu()
    return found


if __name__ == "__main__":
    from support.other_device import OTHER, OtherDevice  # changes the process

    task, out, config = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    with OtherDevice():
        if task == "train":
            train(out, OTHER, config)
        else:
            np.save(out, infer(OTHER, config).numpy())
