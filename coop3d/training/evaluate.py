"""Image-only evaluation of a checkpoint beside predictors that have not looked, on identical samples."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from omegaconf import OmegaConf

from coop3d.conf import Precision
from coop3d.datasets import collate_coop
from coop3d.evaluation import Evaluator, TrainingStatistics, compare_table, standard_baselines
from coop3d.evaluation.report import write_atomically, write_summary_json
from coop3d.training.data import BadRecord, CoopDataset, bad_records, draw, make_loader
from coop3d.training.distributed import set_backend_flags
from coop3d.training.run import Run, load_run
from coop3d.training.run_log import git_revision, progress
from coop3d.training.sampler import fixed_batches
from coop3d.training.step import make_autocast
from coop3d.types import CoopBatch, FactoredPrediction, ViewInputs

log = logging.getLogger(__name__)

Predictor = Callable[[ViewInputs], FactoredPrediction]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Which samples, and how they are fetched."""

    split: str = "test"
    max_samples: int | None = None
    baseline_samples: int = 200
    batch: int = 1
    num_workers: int = 2
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found, and where it is written."""

    folder: Path
    summaries: dict[str, dict[str, float]]  # "model" and every baseline
    table: str
    bad: tuple[BadRecord, ...]


def evaluate_run(
    checkpoint: str | Path,
    folder: str | Path,
    options: EvaluationOptions | None = None,
    overrides: Sequence[str] = (),
) -> Evaluation:
    """Score a checkpoint and all trivial baselines; the model sees `ViewInputs` only.

    Writes ``per_frame.csv`` (the model's rows), ``summary.json`` (the model's), one summary per baseline,
    ``table.txt``, ``bad_samples.txt``, ``config.yaml`` and ``provenance.yaml`` into ``folder``.

    Args:
        checkpoint: a ``checkpoint-*.pth`` or a run directory.
        folder: made if absent.
        options: which samples.
        overrides: changes of the config saved with the run.
    """
    options = options if options is not None else EvaluationOptions()
    device = _device(options.device)
    run = load_run(checkpoint, device, overrides)
    set_backend_flags(tf32=bool(run.config.train_params.tf32))
    dataset = run.dataset(options.split)  # before the first slow step
    baselines = standard_baselines(_training_statistics(run, options))
    predictors: dict[str, Predictor] = {"model": run.model, **baselines}
    evaluators, bad = _score(run, dataset, predictors, options, device)
    if not evaluators["model"].rows:
        raise ValueError(
            f"No sample of split {options.split} could be read: {'; '.join(b.reason for b in bad)}"
        )
    return _write(run, Path(folder), options, evaluators, bad)


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def _training_statistics(run: Run, options: EvaluationOptions) -> TrainingStatistics:
    """What the baselines know, from evenly spread training samples."""
    statistics = TrainingStatistics()
    dataset, cpu = run.dataset("train"), torch.device("cpu")
    for batch, _ in _batches(dataset, options.baseline_samples, options, cpu, "fitting baselines"):
        if batch is not None:
            statistics.update(batch.targets)
    return statistics


@torch.no_grad()
def _score(
    run: Run,
    dataset: CoopDataset,
    predictors: dict[str, Predictor],
    options: EvaluationOptions,
    device: torch.device,
) -> tuple[dict[str, Evaluator], list[BadRecord]]:
    evaluators, bad = {name: Evaluator() for name in predictors}, list[BadRecord]()
    autocast = make_autocast(Precision[run.config.train_params.precision], device)
    for batch, unread in _batches(dataset, options.max_samples, options, device, options.split):
        bad += unread
        if batch is None:
            continue
        batch = batch.to(device, non_blocking=True)
        for name, predict in predictors.items():
            with autocast():
                prediction = predict(batch.inputs)
            evaluators[name].update(prediction, batch.targets, batch.keys)
    for record in bad:
        log.warning("Bad sample, left out: %s: %s", record.key, record.reason)
    return evaluators, bad


def _batches(
    dataset: CoopDataset, limit: int | None, options: EvaluationOptions, device: torch.device, title: str
) -> Iterator[tuple[CoopBatch | None, list[BadRecord]]]:
    """Pairs of batch (None if nothing of it could be read) and bad records."""
    requests = fixed_batches(dataset, limit, options.batch)
    stream = iter(make_loader(dataset, requests, collate_coop, options.num_workers, 2, device))
    for wanted in progress(requests, desc=title):
        collated = draw(stream, dataset, wanted)
        yield collated.batch, bad_records(collated.bad)


def _write(
    run: Run, folder: Path, options: EvaluationOptions, evaluators: dict[str, Evaluator], bad: list[BadRecord]
) -> Evaluation:
    summaries = {name: e.summary() for name, e in evaluators.items()}
    samples = len({(r.scenario, r.reference_agent, r.frame) for r in evaluators["model"].rows})
    title = f"{run.checkpoint} (step {run.step}) on {options.split}: {samples} samples, {len(bad)} unreadable"
    table = f"{title}\n\n{compare_table(summaries)}\n"
    evaluators["model"].write(folder)
    for name, summary in summaries.items():
        if name != "model":
            write_summary_json(summary, folder / f"summary_{name.replace(' + ', '_').replace(' ', '_')}.json")
    write_atomically(folder / "table.txt", table)
    write_atomically(folder / "bad_samples.txt", "".join(f"{b.key}: {b.reason}\n" for b in bad))
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(run.config))
    provenance = {
        "checkpoint": str(run.checkpoint.resolve()),
        "step": run.step,
        "code": git_revision(),
        "torch": str(torch.__version__),
        "host": platform.platform(),
    }
    write_atomically(folder / "provenance.yaml", yaml.safe_dump(provenance, sort_keys=False))
    return Evaluation(folder=folder, summaries=summaries, table=table, bad=tuple(bad))
