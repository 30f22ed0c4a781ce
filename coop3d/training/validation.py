"""Losses and metrics on fixed samples, shared over the processes; also the core of evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from coop3d.evaluation import Evaluator
from coop3d.training.data import (
    BadRecord,
    Collate,
    CoopDataset,
    bad_records,
    draw,
    make_loader,
)
from coop3d.training.distributed import Processes
from coop3d.training.run_log import progress
from coop3d.training.sampler import fixed_batches
from coop3d.training.step import Autocast, LossFunction, Sums, read_scalars


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How samples are fetched."""

    collate: Collate
    num_workers: int
    prefetch: int


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Means over the fixed samples."""

    metrics: dict[str, float]  # loss terms under their names ("loss" is the total), metrics under theirs
    bad: list[BadRecord]
    samples: int


class Validation:
    """Repeats the same measurement: pass 0 of evenly spread samples, whatever the number of processes."""

    def __init__(
        self, dataset: CoopDataset, limit: int, batch: int, loader: LoaderOptions, processes: Processes
    ) -> None:
        self.dataset, self.loader, self.processes = dataset, loader, processes
        batches = fixed_batches(dataset, limit, batch)
        self.batches = batches[processes.rank :: processes.world_size]

    def run(self, model: nn.Module, loss_function: LossFunction, autocast: Autocast) -> ValidationResult:
        """Measure ``model`` (the plain one), leaving it in training mode."""
        model.eval()
        try:
            return self._run(model, loss_function, autocast)
        finally:
            model.train()

    @torch.no_grad()
    def _run(self, model: nn.Module, loss_function: LossFunction, autocast: Autocast) -> ValidationResult:
        evaluator, sums, bad = Evaluator(), Sums(), list[BadRecord]()
        options, device = self.loader, self.processes.device
        stream = iter(
            make_loader(
                self.dataset, self.batches, options.collate, options.num_workers, options.prefetch, device
            )
        )
        hidden = not self.processes.is_main
        for requests in progress(self.batches, desc="validation", leave=False, disable=hidden):
            collated = draw(stream, self.dataset, requests)
            bad += bad_records(collated.bad)
            if collated.batch is None:
                continue
            batch = collated.batch.to(device, non_blocking=True)
            with autocast():
                prediction = model(batch.inputs)
            sums.add(read_scalars(loss_function(prediction, batch.targets)), len(batch.keys))
            evaluator.update(prediction, batch.targets, batch.keys)
        return self._merge(evaluator, sums, bad)

    def _merge(self, evaluator: Evaluator, sums: Sums, bad: list[BadRecord]) -> ValidationResult:
        merged = Evaluator()
        parts = self.processes.gather((evaluator.rows, bad))
        for rows, _ in parts:
            merged.extend(rows)
        losses = sums.mean(self.processes)
        metrics = {"loss" if k == "total" else f"loss/{k}": v for k, v in losses.items()}
        if merged.rows:
            metrics |= {k: v for k, v in merged.summary().items() if not math.isnan(v)}
        samples = int(self.processes.sum([sums.samples])[0])
        return ValidationResult(metrics=metrics, bad=[b for _, part in parts for b in part], samples=samples)
