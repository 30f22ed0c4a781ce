"""The training loop: batches in, checkpoints and logs out. Construction touches no file; :meth:`fit` does."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from coop3d.conf import ConfigError, Optimizer, TrainParamsConf
from coop3d.environment import git_revision
from coop3d.losses import MaskWatch, WeightedSum
from coop3d.progress import logging_redirect_tqdm, progress
from coop3d.training.checkpoint import CheckpointStore, config_changes, must_fit, newest_checkpoint
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
from coop3d.training.failures import record_failure
from coop3d.training.flops import FlopCounter
from coop3d.training.guard import LossGuard, NonFiniteError
from coop3d.training.interval import Interval
from coop3d.training.out_of_memory import VALIDATION, phase
from coop3d.training.parallel import shard
from coop3d.training.run_log import RunLog, console_table, headlines, step_line
from coop3d.training.sampler import BatchSplit, GlobalBatchSampler, RankStream, SamplerState
from coop3d.training.schedule import lr_factor, make_optimizer, parameter_groups, set_lr
from coop3d.training.signals import StopRequest
from coop3d.training.state import (
    MovingAverage,
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
)
from coop3d.training.step import LossFunction, Objective, OptimiserStep, StepResult, make_autocast
from coop3d.training.validation import (
    LoaderOptions,
    Validation,
    ValidationResult,
    improves,
    require_metric,
    same_best,
)

log = logging.getLogger(__name__)


class Outcome(Enum):
    """How a call of :meth:`Trainer.fit` ended."""

    finished = "finished"
    already_finished = "already finished"
    stopped = "stopped by a signal"
    interrupted = "stopped by Ctrl-C"


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """What to train on what; ``teacher`` is frozen."""

    model: nn.Module
    loss_function: LossFunction
    train: CoopDataset
    validation: CoopDataset
    teacher: nn.Module | None = None


class Trainer:
    """Trains one model in one run directory, from the newest checkpoint there if there is one.

    Args:
        task: model, loss and datasets; the model is moved, and cut into shards where the strategy says so.
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
        require_metric(params.best_metric)
        self.split = BatchSplit.plan(params.global_batch, processes.world_size, params.max_micro_batch)
        self.sampler = GlobalBatchSampler(
            task.train, params.global_batch, params.seed, params.pad_last, params.distance_weights
        )
        self.validation = Validation(
            task.validation, params.validation_samples, params.validation_batch, loader, processes
        )
        with phase("moving the model to the device", processes.device):
            self._build_network()
        self.ledger = BadSampleLedger(params.on_bad_sample, params.max_bad_samples)
        self.guard = LossGuard(params.explode_factor)
        self.store = CheckpointStore(run_dir)
        self.step = 0
        self.validated_step = 0
        self.skipped_batches = 0
        self.position = SamplerState()
        self.best: float | None = None
        self._git = git_revision()
        self._mask_watch = MaskWatch()

    def _build_network(self) -> None:
        """Model and teacher on the device, optimiser and moving average over what trains."""
        params, device = self.params, self.processes.device
        self._autocast = make_autocast(params.precision, device)
        self._bf16 = self._autocast is not nullcontext
        self._flops = FlopCounter(self.task.model)
        self.model = shard(self.task.model, self.processes, self._bf16)
        self.teacher = self.task.teacher
        if self.teacher is not None:
            self.teacher = shard(self.teacher.requires_grad_(False).eval(), self.processes, self._bf16)
        rates = (params.lr, params.weight_decay, params.encoder_lr_factor)
        groups = parameter_groups(self.model, *rates, orthogonal=params.optimizer is Optimizer.muon)
        self.optimizer = make_optimizer(groups, params.betas)
        self.average = None if params.ema_decay is None else MovingAverage(self.model, params.ema_decay)

    # ---- the loop

    def fit(self, describe: Callable[[], None] | None = None) -> Outcome:
        """Train to the last step, a stop signal or an error; ``describe`` is called if there is something to train."""
        set_backend_flags(self.params.tf32)
        seed_all(self.params.seed * 1000 + self.processes.rank)
        with phase("loading the checkpoint", self.processes.device):
            self._resume()
        total = self.params.total_steps
        if self.step >= total and self.validated_step == self.step:
            log.info(
                "%s: this run is finished (%d of %d steps). Raise train_params.epochs to train on, "
                "or start in another hydra.run.dir.", self.run_dir, self.step, total,
            )  # fmt: skip
            return Outcome.already_finished
        if describe is not None:
            describe()
        self._announce()
        self.run_log = RunLog(self.run_dir, self.processes.is_main, self.step, self.params.wandb_project)
        try:
            with (
                closing(self.run_log),  # inside: torch may report a dead loader process even while it closes
                StopRequest() as stop,
                logging_redirect_tqdm(),
                progress(
                    total=total, initial=self.step, unit="step", disable=not self.processes.is_main
                ) as bar,
            ):
                return self._loop(stop, bar)
        except NonFiniteError as error:
            where = {"step": self.step, "position": self.position.to_dict(),
                     "progress": self.step / self.params.total_steps}  # fmt: skip
            record_failure(error, self.run_dir, where, self.model, self.config, self.processes)
            raise
        except (RuntimeError, ConnectionError) as error:
            better = explained(error, self.task.train, self.sampler.requests(self.position))
            if better is error:
                raise
            raise better from error

    def _loop(self, stop: StopRequest, bar: tqdm) -> Outcome:
        params = self.params
        self.objective = Objective(
            loss_function=self.task.loss_function, autocast=self._autocast, teacher=self.teacher
        )
        update = OptimiserStep(
            self.model, self.objective, self.optimizer, params.clip_norm, self.guard, self.processes
        )
        self.model.train()
        if self._at_epoch_end() and self.validated_step != self.step:  # stopped before it could validate
            self._end_epoch()
        stream, interval = self._stream(), Interval()
        while self.step < params.total_steps:
            result, stopping = self._one_step(stream, update, interval, stop)
            if result is not None:
                self.step += 1
                bar.update()
                if stopping or self._at_epoch_end() or self.step % params.log_every_steps == 0:
                    self._log_interval(interval, result, bar)
                    interval = Interval()
            if stopping:
                self._save()
                log.warning("Stopped on request at step %d; start again to resume from there.", self.step)
                return Outcome.interrupted if stop.interrupted else Outcome.stopped
            if result is None:
                continue
            if self._at_epoch_end():
                self._end_epoch()
                interval = Interval()
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
        self, stream: Iterator[Collated], update: OptimiserStep, interval: Interval, stop: StopRequest
    ) -> tuple[StepResult | None, bool]:
        """One global batch. No result when none of its samples could be read; then nothing is updated."""
        before = time.perf_counter()
        mine = self.split.of_rank(self.sampler.requests(self.position), self.processes.rank)
        micro = [draw(stream, self.task.train, requests) for requests in mine]
        interval.waited += time.perf_counter() - before
        batches = [c.batch for c in micro if c.batch is not None]
        bad = bad_records([b for c in micro for b in c.bad])
        flops = sum(self._flops.of_step(b.inputs) for b in batches)
        counts = [sum(len(b.keys) for b in batches), len(bad), not batches, stop.received is not None, flops]
        good, any_bad, without, stopping, flops = self.processes.sum(counts)
        self.position = self.sampler.advance(self.position)
        if any_bad:
            self._account([b for part in self.processes.gather(bad) for b in part], int(good))
        else:
            self.ledger.add([], int(good))
        if good == 0:
            self.skipped_batches += 1
            log.warning(
                "No sample of a global batch could be read: batch skipped (%d so far).", self.skipped_batches
            )
            return None, bool(stopping)
        set_lr(self.optimizer, self._lr_factor())
        self._set_loss_progress(self.step / self.params.total_steps)
        result = update(batches, int(good), everyone_has_some=without == 0, sums=interval.sums)
        if self.average is not None:
            self.average.update()
        interval.account(result, int(good), flops)
        return result, bool(stopping)

    def _end_epoch(self) -> None:
        epoch = self.step // self.params.steps_per_epoch
        started = time.perf_counter()
        self._set_loss_progress(1.0)  # the same weights after every epoch, or losses would not compare
        with self._averaged(), phase(VALIDATION, self.processes.device):
            result = self.validation.run(self.model, self.objective)
        if result.bad:
            self._account(result.bad, result.samples)
        try:
            better = self._judge(result)
        except ConfigError:
            self._save()  # the steps were right; the run goes on from here when the config is
            raise
        seconds = time.perf_counter() - started
        self.run_log.write("val", self.step, {"epoch": epoch, "seconds": seconds, **result.known})
        if result.picture is not None:
            self.run_log.image("val/first_sample", self.step, result.picture)
        log.info(
            "Epoch %d, step %d: %d validation samples, %.0f s%s.\n%s",
            epoch, self.step, result.samples, seconds, ", the best so far" if better else "",
            console_table(headlines(result.known)),
        )  # fmt: skip
        self.validated_step = self.step
        self._save(best=better)
        if self.processes.is_main:
            self.store.keep_epoch(epoch, self.params.epoch_checkpoints)

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.applied()

    def _judge(self, result: ValidationResult) -> bool:
        """Whether this is the best validation so far; remembers it if so."""
        score = result.score(self.params.best_metric)
        if math.isnan(score) and self.processes.is_main:
            log.warning(result.unscored(self.params.best_metric))
        better = improves(score, self.best, self.params.best_mode)
        if better:
            self.best = score
        return better

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

    def _log_interval(self, interval: Interval, result: StepResult, bar: tqdm) -> None:
        means = interval.sums.mean(self.processes)
        for complaint in self._mask_watch({k: v for k, v in means.items() if k != "total"}):
            log.warning("Step %d: %s", self.step, complaint)
        values: dict[str, Any] = {
            "epoch": (self.step - 1) // self.params.steps_per_epoch + 1,
            **interval.values(result, means, self.processes),
            **{f"lr/{g['name']}": g["lr"] for g in self.optimizer.param_groups},
            "bad_samples": len(self.ledger.reasons),
            "skipped_batches": self.skipped_batches,
        }
        self.run_log.write("train", self.step, values)
        bar.set_postfix_str(step_line(values), refresh=False)

    def _announce(self) -> None:
        s, never = self.split, self.sampler.never_drawn()
        log.info(
            "%s: %d steps to go; global batch %d = %d processes x %d micro-batches x %d samples on %s, %s.",
            self.run_dir, self.params.total_steps - self.step, s.global_batch, s.world_size, s.accumulation,
            s.micro_batch, self.processes.device, "bf16" if self._bf16 else "fp32",
        )  # fmt: skip
        if never:
            log.warning(
                "Too few samples with so many views to fill a global batch, so they are never drawn: %s "
                "(views: samples). Set train_params.pad_last=true to use them.", never,
            )  # fmt: skip

    # ---- state

    def _save(self, best: bool = False) -> None:
        """Write the last checkpoint; every process calls it, and all stop if it cannot be written."""
        state, error = self._state(), None
        if self.processes.is_main:
            try:
                self.store.save(state, best)
            except OSError as caught:
                error = caught
        self.processes.together(error)

    def _state(self) -> dict[str, Any]:
        return {
            "model": model_state(self.model),
            "ema": None if self.average is None else self.average.state(),
            "optimizer": optimizer_state(self.model, self.optimizer),
            "step": self.step,
            "validated_step": self.validated_step,
            "sampler": self.position.to_dict(),
            "rng": self.processes.gather(rng_state(self.processes.device)),
            "best": self.best,
            "guard": self.guard.state_dict(),
            "bad_samples": dict(self.ledger.reasons),
            "skipped_batches": self.skipped_batches,
            "config": self.config,
            "git": self._git,
            "world_size": self.processes.world_size,
        }

    def _resume(self) -> None:
        if (found := newest_checkpoint(self.store, self.processes)) is None:
            return
        path, state = found
        changes = config_changes(state["config"], self.config)
        if self.processes.is_main:
            for line in changes:
                log.warning("Config changed since the checkpoint: %s", line)
        with must_fit(path, changes):
            load_model_state(self.model, state["model"])
        load_optimizer_state(self.model, self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.load(state.get("ema") or state["model"])
        self.step = state["step"]
        self.best = state["best"] if same_best(state["config"], self.config) else None
        self.validated_step = state["validated_step"]
        self.position = self.sampler.within(SamplerState(**state["sampler"]))
        if "guard" in state:
            self.guard.load_state_dict(state["guard"])
        self.ledger.restore(state["bad_samples"])
        self.skipped_batches = state["skipped_batches"]
        if state["world_size"] == self.processes.world_size:
            set_rng_state(state["rng"][self.processes.rank], self.processes.device)
        else:
            seed_all(self.params.seed * 1000 + self.processes.rank + self.step)
        log.info("%s: resumed at step %d.", self.run_dir, self.step)
