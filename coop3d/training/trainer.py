"""The training loop: batches in, checkpoints and logs out. Construction touches no file; :meth:`fit` does."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from coop3d.conf import MetricMode, TrainParamsConf
from coop3d.losses import MaskWatch, WeightedSum
from coop3d.training.checkpoint import CheckpointStore
from coop3d.training.data import (
    BadRecord,
    BadSampleLedger,
    Collated,
    CoopDataset,
    bad_records,
    draw,
    explained,
    make_loader,
)
from coop3d.training.distributed import Processes, rng_state, seed_all, set_backend_flags, set_rng_state
from coop3d.training.run_log import RunLog, git_revision, logging_redirect_tqdm, progress
from coop3d.training.sampler import BatchSplit, GlobalBatchSampler, RankStream, SamplerState
from coop3d.training.schedule import load_optimizer_state, lr_factor, make_optimizer, parameter_groups, set_lr
from coop3d.training.signals import StopRequest
from coop3d.training.step import LossFunction, NonFiniteError, OptimiserStep, StepResult, Sums, make_autocast
from coop3d.training.validation import LoaderOptions, Validation

log = logging.getLogger(__name__)


class Outcome(Enum):
    """How a call of :meth:`Trainer.fit` ended."""

    finished = "finished"
    already_finished = "already finished"
    stopped = "stopped by a signal"


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """What to train on what."""

    model: nn.Module
    loss_function: LossFunction
    train: CoopDataset
    validation: CoopDataset


@dataclass
class _Interval:
    """What happened since the last log line."""

    sums: Sums
    started: float
    waited: float = 0.0
    samples: int = 0
    grad_norm: float = 0.0

    @classmethod
    def start(cls) -> _Interval:
        return cls(Sums(), time.perf_counter())


class Trainer:
    """Trains one model in one run directory, from the newest checkpoint there if there is one.

    Args:
        task: model, loss and datasets.
        params: lengths, rates, limits.
        loader: how samples are fetched.
        processes: this process among its peers.
        run_dir: exists; process 0 writes into it.
        config: plain container of the whole config, stored in checkpoints.
    """

    def __init__(
        self,
        task: TrainingTask,
        params: TrainParamsConf,
        loader: LoaderOptions,
        processes: Processes,
        run_dir: Path,
        config: dict[str, Any],
    ) -> None:
        self.task, self.params, self.loader, self.processes = task, params, loader, processes
        self.run_dir, self.config = run_dir, config
        self.split = BatchSplit.plan(params.global_batch, processes.world_size, params.max_micro_batch)
        self.sampler = GlobalBatchSampler(task.train, params.global_batch, params.seed, params.pad_last)
        self.validation = Validation(
            task.validation, params.validation_samples, params.validation_batch, loader, processes
        )
        self.model = task.model.to(processes.device)
        groups = parameter_groups(self.model, params.lr, params.weight_decay, params.encoder_lr_factor)
        self.optimizer = make_optimizer(groups, params.betas, fused=processes.device.type == "cuda")
        self.ledger = BadSampleLedger(params.on_bad_sample, params.max_bad_samples)
        self.store = CheckpointStore(run_dir)
        self.step = 0
        self.validated_step = 0
        self.skipped_batches = 0
        self.position = SamplerState()
        self.best: float | None = None
        self._git = git_revision()
        self._mask_watch = MaskWatch()
        self._autocast = make_autocast(params.precision, processes.device)

    # ---- the loop

    def fit(self) -> Outcome:
        """Train to the last step, a stop signal or an error."""
        set_backend_flags(self.params.tf32)
        seed_all(self.params.seed * 1000 + self.processes.rank)
        self._resume()
        total = self.params.total_steps
        if self.step >= total and self.validated_step == self.step:
            log.info(
                "%s: this run is finished (%d of %d steps). Raise train_params.epochs to train on, "
                "or start in another hydra.run.dir.", self.run_dir, self.step, total,
            )  # fmt: skip
            return Outcome.already_finished
        self._announce()
        self.run_log = RunLog(self.run_dir, self.processes.is_main, self.step)
        hidden = not self.processes.is_main
        try:
            with (
                closing(self.run_log),  # inside: torch may report a dead loader process even while it closes
                StopRequest() as stop,
                logging_redirect_tqdm(),
                progress(total=total, initial=self.step, unit="step", disable=hidden) as bar,
            ):
                return self._loop(stop, bar)
        except NonFiniteError as error:
            self._record_non_finite(error)
            raise
        except RuntimeError as error:
            better = explained(error, self.task.train, self.sampler.requests(self.position))
            if better is error:
                raise
            raise better from error

    def _loop(self, stop: StopRequest, bar: tqdm) -> Outcome:
        params = self.params
        update = OptimiserStep(
            self.model, self.processes.wrap(self.model), self.task.loss_function, self.optimizer,
            params.clip_norm, self._autocast, self.processes,
        )  # fmt: skip
        self.model.train()
        if self._at_epoch_end() and self.validated_step != self.step:  # stopped before it could validate
            self._end_epoch()
        stream, interval = self._stream(), _Interval.start()
        while self.step < params.total_steps:
            result, stopping = self._one_step(stream, update, interval, stop)
            if result is not None:
                self.step += 1
                bar.update()
                if stopping or self._at_epoch_end() or self.step % params.log_every_steps == 0:
                    self._log_interval(interval, result, bar)
                    interval = _Interval.start()
            if stopping:
                self._save()
                log.warning("Stopped on request at step %d; start again to resume from there.", self.step)
                return Outcome.stopped
            if result is None:
                continue
            if self._at_epoch_end():
                self._end_epoch()
                interval = _Interval.start()
            elif self.step % params.checkpoint_every_steps == 0:
                self._save()
        log.info(
            "%s: finished, %d steps. Best validation %s: %s.",
            self.run_dir, self.step, params.best_metric, "none" if self.best is None else f"{self.best:.4f}",
        )  # fmt: skip
        return Outcome.finished

    def _at_epoch_end(self) -> bool:
        return self.step > 0 and self.step % self.params.steps_per_epoch == 0

    def _one_step(
        self, stream: Iterator[Collated], update: OptimiserStep, interval: _Interval, stop: StopRequest
    ) -> tuple[StepResult | None, bool]:
        """One global batch. No result when none of its samples could be read; then nothing is updated."""
        before = time.perf_counter()
        mine = self.split.of_rank(self.sampler.requests(self.position), self.processes.rank)
        micro = [draw(stream, self.task.train, requests) for requests in mine]
        interval.waited += time.perf_counter() - before
        batches = [c.batch for c in micro if c.batch is not None]
        bad = bad_records([b for c in micro for b in c.bad])
        counts = [sum(len(b.keys) for b in batches), len(bad), not batches, stop.received is not None]
        good, any_bad, without, stopping = map(int, self.processes.sum(counts))
        self.position = self.sampler.advance(self.position)
        if any_bad:
            self._account([b for part in self.processes.gather(bad) for b in part], good)
        else:
            self.ledger.add([], good)
        if good == 0:
            self.skipped_batches += 1
            log.warning(
                "No sample of a global batch could be read: batch skipped (%d so far).", self.skipped_batches
            )
            return None, bool(stopping)
        set_lr(self.optimizer, self._lr_factor())
        self._set_loss_progress(self.step / self.params.total_steps)
        result = update(batches, good, everyone_has_some=without == 0, sums=interval.sums)
        interval.samples += good
        interval.grad_norm = max(interval.grad_norm, result.grad_norm)
        return result, bool(stopping)

    def _end_epoch(self) -> None:
        epoch = self.step // self.params.steps_per_epoch
        started = time.perf_counter()
        self._set_loss_progress(1.0)  # the same weights after every epoch, or losses would not compare
        result = self.validation.run(self.model, self.task.loss_function, self._autocast)
        if result.bad:
            self._account(result.bad, result.samples)
        score = result.metrics.get(self.params.best_metric)
        if score is None:
            raise ValueError(
                f"train_params.best_metric={self.params.best_metric} is not among the validation metrics: "
                f"{', '.join(result.metrics)}."
            )
        better = self._is_better(score)
        if better:
            self.best = score
        seconds = time.perf_counter() - started
        self.run_log.write("val", self.step, {"epoch": epoch, "seconds": seconds, **result.metrics})
        loss = result.metrics["loss"]
        log.info(
            "Epoch %d, step %d: validation loss %.4f, %s %.4f%s (%d samples, %.0f s).",
            epoch, self.step, loss, self.params.best_metric, score, " (best)" if better else "",
            result.samples, seconds,
        )  # fmt: skip
        self.validated_step = self.step
        self._save(best=better)

    def _is_better(self, score: float) -> bool:
        if not math.isfinite(score):
            return False
        if self.best is None:
            return True
        return score < self.best if self.params.best_mode is MetricMode.min else score > self.best

    # ---- parts

    def _stream(self) -> Iterator[Collated]:
        batches = RankStream(self.sampler, self.split, self.processes.rank, self.position)
        options, device = self.loader, self.processes.device
        return iter(
            make_loader(
                self.task.train, batches, options.collate, options.num_workers, options.prefetch, device
            )
        )

    def _lr_factor(self) -> float:
        p = self.params
        return lr_factor(self.step, p.warmup_steps, p.total_steps, p.min_lr_factor)

    def _set_loss_progress(self, fraction: float) -> None:
        """Tell a loss with a curriculum how far training is."""
        if isinstance(self.task.loss_function, WeightedSum):
            self.task.loss_function.progress = fraction

    def _account(self, records: list[BadRecord], good: int) -> None:
        for record in records:
            self.run_log.write("bad_sample", self.step, {"samples": record.key, "reason": record.reason})
        for record in self.ledger.add(records, good):
            log.warning("Bad sample %s: %s", record.key, record.reason)

    def _log_interval(self, interval: _Interval, result: StepResult, bar: tqdm) -> None:
        means = interval.sums.mean(self.processes)
        for complaint in self._mask_watch(means):
            log.warning("Step %d: %s", self.step, complaint)
        seconds = time.perf_counter() - interval.started
        values: dict[str, Any] = {
            "epoch": (self.step - 1) // self.params.steps_per_epoch + 1,
            "loss": means.pop("total"),
            **{f"loss/{name}": value for name, value in means.items()},
            **{f"lr/{g['name']}": g["lr"] for g in self.optimizer.param_groups},
            "grad_norm": result.grad_norm,
            "grad_norm_max": interval.grad_norm,
            "samples_per_s": interval.samples / seconds,
            "data_wait": interval.waited / seconds,
            "bad_samples": len(self.ledger.reasons),
            "skipped_batches": self.skipped_batches,
        }
        if self.processes.device.type == "cuda":
            values["gpu_peak_gib"] = torch.cuda.max_memory_allocated(self.processes.device) / 2**30
        self.run_log.write("train", self.step, values)
        bar.set_postfix_str(
            f"loss {values['loss']:.4f}, lr {max(g['lr'] for g in self.optimizer.param_groups):.1e}, "
            f"{values['samples_per_s']:.1f} samples/s, wait {values['data_wait']:.0%}, "
            f"|g| {result.grad_norm:.2f}",
            refresh=False,
        )

    def _announce(self) -> None:
        s, never = self.split, self.sampler.never_drawn()
        log.info(
            "%s: %d steps to go; global batch %d = %d processes x %d micro-batches x %d samples on %s, %s.",
            self.run_dir, self.params.total_steps - self.step, s.global_batch, s.world_size, s.accumulation,
            s.micro_batch, self.processes.device, "bf16" if self._autocast is not nullcontext else "fp32",
        )  # fmt: skip
        if never:
            log.warning(
                "Too few samples with so many views to fill a global batch, so they are never drawn: %s "
                "(views: samples). Set train_params.pad_last=true to use them.", never,
            )  # fmt: skip

    def _record_non_finite(self, error: NonFiniteError) -> None:
        if self.processes.is_main:
            path = self.run_dir / f"non_finite_step_{self.step}.json"
            record = {"step": self.step, "position": self.position.to_dict(), **error.record}
            path.write_text(json.dumps(record, indent=2), encoding="utf-8")
            log.error("%s The batch is recorded in %s; no weight was changed by it.", error, path)

    # ---- state

    def _save(self, best: bool = False) -> None:
        """Write the last checkpoint; every process calls it."""
        generators = self.processes.gather(rng_state(self.processes.device))
        if self.processes.is_main:
            self.store.save(self._state(generators), best)
        self.processes.barrier()

    def _state(self, generators: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "validated_step": self.validated_step,
            "sampler": self.position.to_dict(),
            "rng": generators,
            "best": self.best,
            "bad_samples": dict(self.ledger.reasons),
            "skipped_batches": self.skipped_batches,
            "config": self.config,
            "git": self._git,
            "world_size": self.processes.world_size,
        }

    def _resume(self) -> None:
        state = self.store.load_latest()
        self.processes.barrier()
        if state is None:
            return
        if self.processes.is_main:
            self.store.set_aside_damaged()
            for line in config_changes(state["config"], self.config):
                log.warning("Config changed since the checkpoint: %s", line)
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        self.validated_step = state["validated_step"]
        self.position = SamplerState(**state["sampler"])
        self.ledger.reasons = dict(state["bad_samples"])
        self.skipped_batches = state["skipped_batches"]
        if state["world_size"] == self.processes.world_size:
            set_rng_state(state["rng"][self.processes.rank], self.processes.device)
        else:
            seed_all(self.params.seed * 1000 + self.processes.rank + self.step)
        log.info("%s: resumed at step %d.", self.run_dir, self.step)


def config_changes(old: Any, new: Any, path: str = "") -> list[str]:
    """Leaves that differ between two plain containers, as ``key: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new}, key=str)
        dotted = [(k, f"{path}.{k}" if path else str(k)) for k in keys]
        return [line for k, p in dotted for line in config_changes(old.get(k), new.get(k), p)]
    return [] if old == new else [f"{path}: {old} -> {new}"]
