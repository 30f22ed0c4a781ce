"""How numbers came about: what identifies an evaluation, and the head of ``metrics.json``."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from coop3d.benchmark.baselines import BASELINES
from coop3d.benchmark.journal import ARITHMETIC, Identity, revisions
from coop3d.benchmark.options import EvaluationOptions
from coop3d.benchmark.runner import PassTimes
from coop3d.benchmark.samples import Samples
from coop3d.conf import Precision
from coop3d.environment import describe_environment
from coop3d.training.data import BadRecord
from coop3d.training.run import Run
from coop3d.training.step import forward_dtype

Checkpoints = Mapping[str, Mapping[str, Any]]  # name -> path, sha256


def identity(
    run: Run,
    samples: Samples,
    options: EvaluationOptions,
    overrides: Sequence[str],
    checkpoints: Checkpoints,
    baselines: Sequence[str],
    device: torch.device,
) -> Identity:
    """All that decides a score: samples, data, weights, inputs, arithmetic."""
    precision = run.config.train_params.precision
    settings = {
        "data": _data_hash(run),
        "precision": str(precision),
        ARITHMETIC: f"{forward_dtype(Precision[precision], device)} on {device.type}".removeprefix("torch."),
        "batch": options.batch,
        "points": options.points,
        "alone": options.alone,
    }
    entrants: dict[str, dict[str, Any]] = {
        name: {"sha256": c["sha256"], "inputs": options.inputs, "overrides": list(overrides)}
        for name, c in checkpoints.items()
    }
    fitted = {"samples": options.baseline_samples, "augmented": False}
    for name in baselines:
        baseline = BASELINES[name]
        entrants[baseline.title] = fitted if baseline.is_fitted else {}
    return Identity(samples.contract.digest, settings, entrants)


def _data_hash(run: Run) -> str:
    """Of the dataset part of the config with all references resolved: paths, camera, depth source."""
    config: Any = OmegaConf.to_container(run.config, resolve=True)
    return hashlib.sha256(json.dumps(config["dataset"], sort_keys=True, default=str).encode()).hexdigest()


def head(
    folder: Path,
    run: Run,
    samples: Samples,
    options: EvaluationOptions,
    overrides: Sequence[str],
    bad: Sequence[BadRecord],
    times: Mapping[str, Sequence[PassTimes]],
    world_size: int,
) -> dict[str, Any]:
    """``metrics.json`` without its entrants, of a claimed folder. ``run`` is the first model's."""
    contract = samples.contract
    environment = describe_environment(world_size, {})
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "contract": {
            "name": contract.name,
            "sha256": contract.digest,
            "samples_sha256": contract.samples_digest,
            "split": contract.split,
            "samples": len(contract.samples),
            "vehicles": list(contract.vehicles),
            "pair_policy": contract.pair_policy,
            "max_distance_m": contract.max_distance_m,
            "is_file": samples.is_given,
        },
        "mode": samples.mode,
        "code": environment.pop("git"),
        "code_of_rows": revisions(folder),
        "command": environment.pop("command", sys.argv),
        "environment": environment,
        "options": asdict(options),
        "overrides": list(overrides),
        "config": OmegaConf.to_container(run.config, resolve=True),
        "bad_samples": [{"key": b.key, "reason": b.reason} for b in bad],
        "times": {name: [asdict(t) for t in parts] for name, parts in times.items()},
    }
