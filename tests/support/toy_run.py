"""A dataset, a model and a loss so small that a training run takes a second."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coop3d.conf import Optimizer, Precision, TrainParamsConf
from coop3d.datasets import BadSample, CoopSample, collate_coop
from coop3d.training.distributed import Processes
from coop3d.training.trainer import Trainer, TrainingTask
from coop3d.training.validation import LoaderOptions
from coop3d.types import CoopBatch, FactoredPrediction, SampleKey, ViewInputs, ViewTargets

H, W = 3, 6


class ToyDataset:
    """Sample ``index`` has 2 or 3 views; its content depends on (epoch, index) only."""

    def __init__(self, size: int = 24, bad: tuple[int, ...] = (), raises: int | None = None) -> None:
        self.size, self.bad, self.raises = size, frozenset(bad), raises
        self.kill_at: int | None = None  # this index ends the process that reads it
        self.sigterm_at: tuple[int, int] | None = None  # this request sends SIGTERM to the process

    def __len__(self) -> int:
        return self.size

    def num_views_of(self, epoch: int, index: int) -> int:
        return 2 + (index % 3 == 0)

    def keys_of(self, epoch: int, index: int) -> tuple[SampleKey, ...]:
        return tuple(
            SampleKey("town", str(v), f"{index:06d}") for v in range(self.num_views_of(epoch, index))
        )

    def __getitem__(self, request: tuple[int, int]) -> CoopSample | BadSample:
        epoch, index = request
        if index == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if request == self.sigterm_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if index == self.raises:
            raise KeyError("no such thing")
        if index in self.bad:
            return BadSample(self.keys_of(epoch, index), f"/data/{index}.png: truncated")
        generator = torch.Generator().manual_seed(epoch * 1000 + index)
        return CoopSample(make_sample(self.keys_of(epoch, index), generator))


def make_sample(keys: tuple[SampleKey, ...], generator: torch.Generator) -> CoopBatch:
    V = len(keys)
    image = torch.rand(1, V, 3, H, W, generator=generator)
    rays = torch.nn.functional.normalize(torch.randn(1, V, H, W, 3, generator=generator), dim=-1)
    T = torch.eye(4).repeat(1, V, 1, 1)
    T[0, 1:, 0, 3] = image[0, 1:].mean(dim=(1, 2, 3)) * 10
    yes = torch.ones(1, V, H, W, dtype=torch.bool)
    targets = ViewTargets(
        range_m=1 + 5 * image.mean(dim=2), rays=rays, origins=torch.zeros_like(rays), covered=yes, valid=yes,
        non_ambiguous=yes, mask_known=yes, source=torch.zeros(1, V, H, W, dtype=torch.uint8), T_ref_view=T,
        is_metric=torch.ones(1, dtype=torch.bool), is_synthetic=torch.ones(1, dtype=torch.bool),
        vehicle=torch.arange(V),
    )  # fmt: skip
    T_world = np.eye(4)  # a quarter of a circle in ten frames
    angle = 0.15 * int(keys[0].frame)
    T_world[0, 3], T_world[2, 3] = 20 * np.cos(angle), 20 * np.sin(angle)
    inputs = ViewInputs(image=image, rays=rays, origins=targets.origins)
    return CoopBatch(inputs=inputs, targets=targets, keys=(keys,), T_world_ref=T_world[None])


class ToyModel(nn.Module):
    """Range per pixel and one translation per view, from colours."""

    def __init__(self, dropout: float = 0.0, matrix: bool = False) -> None:
        """``matrix``: with one more layer, wide enough for Muon."""
        super().__init__()
        width = 16 if matrix else 8
        self.encoder: nn.Module = nn.Linear(3, width)
        if matrix:
            self.encoder = nn.Sequential(self.encoder, nn.Tanh(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 1)
        self.pose = nn.Linear(width, 3)

    def forward(self, inputs: ViewInputs) -> FactoredPrediction:
        assert inputs.rays is not None
        features = self.dropout(self.norm(self.encoder(inputs.image.permute(0, 1, 3, 4, 2)).tanh()))
        B, V, _, _ = inputs.shape
        trans = self.pose(features.mean(dim=(2, 3)))
        distance = self.head(features).squeeze(-1).exp()
        return FactoredPrediction(
            rays=inputs.rays, distance=distance, trans=trans,
            quat_xyzw=torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(B, V, 4), scale=torch.ones(B),
            confidence=torch.ones_like(distance), mask_logits=torch.ones_like(distance),
        )  # fmt: skip


@dataclass(frozen=True)
class ToyOutput:
    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)

    def scalars(self) -> dict[str, Tensor]:
        return {"total": self.total.detach(), **self.terms}


class ToyLoss:
    """Mean over samples; views weigh equally within a sample."""

    def __call__(self, prediction: FactoredPrediction, targets: ViewTargets) -> ToyOutput:
        range_loss = (prediction.range_m - targets.range_m).square().mean(dim=(1, 2, 3))
        pose_loss = (prediction.T_ref_view - targets.T_ref_view)[..., :3, 3].square().mean(dim=(1, 2))
        total = (range_loss + pose_loss).mean()
        return ToyOutput(total, {"range": range_loss.mean().detach(), "pose": pose_loss.mean().detach()})


ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))


def params(**changes: Any) -> TrainParamsConf:
    values: dict[str, Any] = {
        "epochs": 3, "steps_per_epoch": 4, "global_batch": 4, "max_micro_batch": 4, "lr": 1e-2, "seed": 7,
        "warmup_steps": 2, "log_every_steps": 1, "checkpoint_every_steps": 2, "validation_samples": 5,
        "validation_batch": 2, "precision": Precision.fp32, "tf32": False,
    }  # fmt: skip
    return TrainParamsConf(**{**values, **changes})


def records(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Lines of one kind in a run's log."""
    lines = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def make_trainer(
    run_dir: Path,
    dataset: ToyDataset | None = None,
    *,
    processes: Processes = ALONE,
    num_workers: int = 0,
    dropout: float = 0.0,
    **changes: Any,
) -> Trainer:
    """A trainer of a `ToyModel`; with ``optimizer=Optimizer.muon`` of one that has a matrix."""
    run_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    task = TrainingTask(
        model=ToyModel(dropout, matrix=changes.get("optimizer") is Optimizer.muon),
        loss_function=ToyLoss(),
        train=dataset if dataset is not None else ToyDataset(),
        validation=ToyDataset(9),
    )
    loader = LoaderOptions(collate=collate_coop, num_workers=num_workers, prefetch=2)
    return Trainer(task, params(**changes), loader, processes, run_dir, {"toy": True})
