"""Losses and metrics on fixed samples, shared over the processes; also the core of evaluation."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from coop3d.conf import ConfigError, MetricMode
from coop3d.evaluation import Evaluator, score_table
from coop3d.progress import progress
from coop3d.training.data import (
    BadRecord,
    Collate,
    Collated,
    CoopDataset,
    bad_records,
    draw,
    make_loader,
)
from coop3d.training.distributed import Processes
from coop3d.training.sampler import fixed_batches
from coop3d.training.step import Objective, Sums, read_scalars
from coop3d.visualization.arrays import RGB
from coop3d.visualization.figures import prediction_figure

SINGLE = "single/"  # before the scores of the reference vehicle by itself


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How samples are fetched."""

    collate: Collate
    num_workers: int
    prefetch: int


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Means over the fixed samples."""

    # loss terms under their names ("loss" is the total), metrics under theirs, NaN where nothing could be scored;
    # "single/..." are those of the reference vehicle given its own views only, beside what cooperation makes of the
    # same frames
    metrics: dict[str, float]
    bad: list[BadRecord]
    samples: int
    picture: RGB | None = None  # of the first sample: photographs, range, mask, error; on process 0

    @property
    def known(self) -> dict[str, float]:
        """The metrics that something could be scored for."""
        return {name: value for name, value in self.metrics.items() if not math.isnan(value)}

    def score(self, name: str) -> float:
        """The metric that decides which checkpoint is best; NaN where nothing could be scored (`unscored`).

        Raises:
            ConfigError: if there is none of that name.
        """
        return self.metrics.get(name, math.nan) if name in metric_names() else _require(name, self.metrics)

    def unscored(self, name: str) -> str:
        """What to say where :meth:`score` is NaN."""
        return (
            f"train_params.best_metric={name} could not be scored on {self.samples} validation samples (has "
            "dataset.val what it needs, such as range?): there is no checkpoint-best.pth without it. Scored were: "
            f"{', '.join(sorted(self.known)) or 'none'}."
        )


def metric_names() -> set[str]:
    """What validation may measure beside the losses."""
    scores = set(score_table([]).scores)
    return scores | {SINGLE + name for name in scores if not name.startswith("pose")}


def require_metric(name: str) -> None:
    """A misspelt `TrainParamsConf.best_metric` is found before anything trains; terms of the loss, after an epoch.

    Raises:
        ConfigError: naming what is like it.
    """
    if name != "loss" and not name.startswith("loss/"):
        _require(name, dict.fromkeys(metric_names(), math.nan))


def _require(name: str, metrics: Mapping[str, float]) -> float:
    if name not in metrics:
        near = difflib.get_close_matches(name, metrics, n=5, cutoff=0.3)
        raise ConfigError(
            f"train_params.best_metric={name} is not among the validation metrics; did you mean {' or '.join(near)}? "
            "docs/evaluation.md lists them."
        )
    return metrics[name]


class Validation:
    """Repeats the same measurement: pass 0 of evenly spread samples, whatever the number of processes."""

    def __init__(
        self, dataset: CoopDataset, limit: int, batch: int, loader: LoaderOptions, processes: Processes
    ) -> None:
        self.dataset, self.loader, self.processes = dataset, loader, processes
        batches = fixed_batches(dataset, limit, batch)
        self.batches = batches[processes.rank :: processes.world_size]
        self.rounds = len(batches[:: processes.world_size])  # of process 0, which has the most

    def run(self, model: nn.Module, objective: Objective) -> ValidationResult:
        """Measure ``model`` (the plain or the sharded one), leaving it in training mode."""
        model.eval()
        try:
            return self._run(model, objective)
        finally:
            model.train()

    @torch.no_grad()
    def _run(self, model: nn.Module, objective: Objective) -> ValidationResult:
        evaluator, single, sums, bad = Evaluator(), Evaluator(), Sums(), list[BadRecord]()
        picture: RGB | None = None
        for collated in self._collated():
            mine = None if collated is None else collated.batch
            bad += [] if collated is None else bad_records(collated.bad)
            # Sharded layers are gathered by all processes at once, so one without a batch borrows another's.
            batch = self.processes.fill(mine) if self.processes.sharded else mine
            if batch is None:
                continue
            batch = batch.to(self.processes.device, non_blocking=True)
            prediction = objective.predict(model, batch)
            output = objective.loss(prediction, batch)
            alone = batch.reference_only()
            cooperative = alone.inputs.shape != batch.inputs.shape
            if cooperative or self.processes.sharded:  # sharded processes must pass equally often
                prediction_alone = objective.predict(model, alone)
            if mine is None:
                continue
            if cooperative:
                single.update(prediction_alone, alone.targets, alone.keys)
            sums.add(read_scalars(output.scalars()), len(batch.keys))
            evaluator.update(prediction, batch.targets, batch.keys)
            if picture is None and self.processes.is_main:
                picture = prediction_figure(batch.inputs, batch.targets, prediction, batch.keys)
        return replace(self._merge(evaluator, single, sums, bad), picture=picture)

    def _collated(self) -> Iterator[Collated | None]:
        """This process's batches; where layers are sharded, as many Nones as others have more."""
        options, processes = self.loader, self.processes
        stream = iter(
            make_loader(
                self.dataset,
                self.batches,
                options.collate,
                options.num_workers,
                options.prefetch,
                processes.device,
            )
        )
        hidden = not processes.is_main
        for requests in progress(self.batches, desc="validation", leave=False, disable=hidden):
            yield draw(stream, self.dataset, requests)
        if processes.sharded:
            yield from [None] * (self.rounds - len(self.batches))

    def _merge(
        self, evaluator: Evaluator, single: Evaluator, sums: Sums, bad: list[BadRecord]
    ) -> ValidationResult:
        both, one = (evaluator.rows, evaluator.samples), (single.rows, single.samples)
        parts = self.processes.gather((both, one, bad))
        losses = sums.mean(self.processes)
        metrics = {"loss" if k == "total" else f"loss/{k}": v for k, v in losses.items()}
        for prefix, rows in (("", [p[0] for p in parts]), (SINGLE, [p[1] for p in parts])):
            merged = Evaluator()
            for part in rows:
                merged.extend(*part)
            found = merged.summary() if merged.rows else {}
            if prefix:  # one vehicle has no pose to find
                found = {k: v for k, v in found.items() if not k.startswith("pose")}
            metrics |= {prefix + k: v for k, v in found.items()}
        samples = int(self.processes.sum([sums.samples])[0])
        return ValidationResult(metrics=metrics, bad=[b for *_, part in parts for b in part], samples=samples)


def same_best(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two configs choose the best checkpoint by the same metric; values of two losses do not compare."""
    before, after = (config.get("train_params", {}) for config in (then, now))
    if any(before.get(key) != after.get(key) for key in ("best_metric", "best_mode")):
        return False
    by_loss = str(after.get("best_metric")).startswith("loss")
    return not by_loss or then.get("loss") == now.get("loss")


def improves(score: float, best: float | None, mode: MetricMode) -> bool:
    """Whether a finite score is better than the best so far."""
    if not math.isfinite(score) or best is None:
        return math.isfinite(score)
    return score < best if mode is MetricMode.min else score > best
