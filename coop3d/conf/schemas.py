"""Typed schemas of the Hydra configs.

The groups ``machine``, ``train_params`` and ``distributed`` are typed here. ``dataset``, ``model`` and ``loss`` are
trees of ``_target_``; their keys are checked against the signature of what they build (`checks`). Rooms above register
the schemas of their own configs: `coop3d.benchmark.options` those of the evaluations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from coop3d.conf.errors import ConfigError


class Strategy(Enum):
    """How processes share the work."""

    none = "none"
    ddp = "ddp"  # replicated model, averaged gradients
    fsdp = "fsdp"  # weights, gradients and optimiser state cut over the processes


class Precision(Enum):
    """Arithmetic of the forward pass."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class Optimizer(Enum):
    """What turns gradients into updates."""

    adamw = "adamw"
    muon = "muon"  # for matrices and kernels; AdamW for the rest


class BadSamplePolicy(Enum):
    """What a sample that cannot be read does to a run."""

    skip = "skip"
    stop = "stop"


class MetricMode(Enum):
    """Whether a smaller or a larger value of a metric is better."""

    min = "min"
    max = "max"


@dataclass
class MachineConf:
    """Where data lie and what the machine can bear."""

    name: str = MISSING
    opv2v_images_root: str = MISSING
    opv2v_depth_root: str | None = None  # None: no dense depth on this machine
    panorama_cache_root: str | None = None  # {split}.h5, read where dataset.panoramas=cache
    experiments_root: str = MISSING
    num_workers: int = 4  # loader processes per training process
    prefetch_batches: int = 2  # per worker
    synthetic: dict[str, Any] | None = None  # a SyntheticConfig: data to make where the roots are absent


@dataclass
class TrainParamsConf:
    """How long, how fast and how carefully to train. Every length is in optimiser steps."""

    epochs: int = MISSING
    steps_per_epoch: int = MISSING
    global_batch: int = MISSING  # samples per optimiser step, over all processes
    max_micro_batch: int = MISSING  # samples per forward pass on one process
    lr: float = MISSING
    optimizer: Optimizer = Optimizer.adamw
    seed: int = 0
    encoder_lr_factor: float = 1.0
    min_lr_factor: float = 0.01
    warmup_steps: int = 0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    ema_decay: float | None = None  # validate and save a moving average of the weights, too
    teacher: str | None = None  # checkpoint of a frozen model, for losses with a DistillationTerm
    explode_factor: float = 100.0  # stop where a loss exceeds so many times its moving average
    precision: Precision = Precision.auto  # auto: bf16 on a GPU that has it, else fp32
    tf32: bool = True
    distance_weights: list[float] = field(
        default_factory=list
    )  # draws per pass by evaluation's distance buckets
    pad_last: bool = False  # fill the last batch of each view count instead of dropping it
    on_bad_sample: BadSamplePolicy = BadSamplePolicy.skip
    max_bad_samples: int = 20
    log_every_steps: int = 10
    wandb_project: str | None = None  # also send scalars and pictures there; needs pip install wandb
    checkpoint_every_steps: int = 500
    epoch_checkpoints: int = 2  # keep checkpoint-<epoch>.pth of this many epochs
    validation_samples: int = 64
    validation_batch: int = 1
    best_metric: str = "loss"
    best_mode: MetricMode = MetricMode.min

    def __post_init__(self) -> None:
        at_least_one = (
            "epochs", "steps_per_epoch", "global_batch", "max_micro_batch", "log_every_steps",
            "checkpoint_every_steps", "validation_samples", "validation_batch",
        )  # fmt: skip
        for name in at_least_one:
            _check_range(name, getattr(self, name), 1)
        for name in (
            "epoch_checkpoints",
            "warmup_steps",
            "weight_decay",
            "max_bad_samples",
            "encoder_lr_factor",
            "seed",
            "lr",
        ):
            _check_range(name, getattr(self, name), 0)
        _check_range("explode_factor", self.explode_factor, 1)
        if self.clip_norm <= 0:
            raise ConfigError(f"train_params.clip_norm={self.clip_norm} must be positive (inf: never clip).")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"train_params.ema_decay={self.ema_decay} must lie in (0, 1), or be null.")
        if self.warmup_steps >= self.total_steps:
            raise ConfigError(
                f"train_params.warmup_steps={self.warmup_steps} is not below epochs * steps_per_epoch "
                f"= {self.total_steps}: the learning rate would never fall."
            )

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch


@dataclass
class DistributedConf:
    """How processes share the work."""

    strategy: Strategy = MISSING
    device: str = "auto"  # auto, cpu or cuda
    find_unused_parameters: bool = False
    timeout_minutes: int = 60


@dataclass
class PreflightConf:
    """What is checked before anything is built, and whether to wait for busy GPUs."""

    enabled: bool = True
    wait_for_free: float = 0.0  # minutes to wait for room on the GPUs; 0: refuse at once
    poll_seconds: float = 30.0
    need_gib: float | None = None  # per GPU, instead of the estimate
    reserve_gib: float = 1.5  # CUDA context, losses, communication, allocator: what the estimate leaves out


@dataclass
class TrainConf:
    """Root of ``configs/train.yaml``."""

    machine: MachineConf = MISSING
    dataset: dict[str, Any] = MISSING  # nodes train, val, test
    model: dict[str, Any] = MISSING
    preset: dict[str, Any] = MISSING  # which parameters train
    loss: dict[str, Any] = MISSING
    train_params: TrainParamsConf = MISSING
    distributed: DistributedConf = MISSING
    preflight: PreflightConf = field(default_factory=PreflightConf)


def register_schema(name: str, schema: type) -> None:
    """Make a schema known to Hydra under the name that a file of ``configs/`` uses.

    Args:
        name: as in that file's defaults.
        schema: a dataclass; a config made of it can be changed, be the class frozen.
    """
    node = OmegaConf.structured(schema)
    OmegaConf.set_readonly(node, None)
    ConfigStore.instance().store(name=name, node=node)


register_schema("train_schema", TrainConf)
# Environment variables are text: of a path that may be absent, an empty one and "null" say that it is.
OmegaConf.register_new_resolver("or_null", lambda path: None if path in ("", "null") else path, replace=True)


def _check_range(name: str, value: float, low: float) -> None:
    if value < low:
        raise ConfigError(f"train_params.{name}={value} must be at least {low}.")
