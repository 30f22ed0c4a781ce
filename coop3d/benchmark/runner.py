"""One pass over the samples: the model predicts while other threads score and loader processes read ahead."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from coop3d.benchmark.entrants import Answer, Blind, Entrant, ask
from coop3d.benchmark.journal import Journal, Scored
from coop3d.benchmark.options import EvaluationOptions
from coop3d.benchmark.samples import Samples
from coop3d.datasets import collate_coop
from coop3d.evaluation import score_batch
from coop3d.progress import progress
from coop3d.training.data import BadRecord, bad_records, draw, make_loader
from coop3d.training.distributed import Processes
from coop3d.training.sampler import Request
from coop3d.types import CoopBatch, FactoredPrediction

Autocast = Callable[[], AbstractContextManager[Any]]

PREFETCH = 2  # batches that each loader process reads ahead
PENDING = 4  # batches that may wait for their scores, so that memory stays bounded


@dataclass
class PassTimes:
    """Seconds of one process in one pass."""

    wall: float = 0.0
    waiting_for_data: float = 0.0
    inference: float = 0.0  # of the device's entrant, transfers included
    scoring: float = 0.0  # in the other threads, host entrants included
    samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a pass does.

    Attributes:
        samples: which, in fixed batches.
        model: predicts on the device of ``me``, in the main thread.
        host: predict on the CPU, in the scoring threads.
        done: (entrant, sample) that need not be done again.
        autocast: precision of the model.
    """

    samples: Samples
    model: Blind
    host: Sequence[Entrant]
    done: frozenset[tuple[str, str]] = frozenset()
    autocast: Autocast

    @property
    def entrants(self) -> list[Entrant]:
        """All, the model first."""
        return [self.model, *self.host]

    def todo(self, me: Processes) -> list[tuple[Request, ...]]:
        """This process's part of the batches in which something is missing."""
        batches = [
            batch
            for batch in self.samples.batches
            if any((e.name, self.samples.name_of(r)) not in self.done for e in self.entrants for r in batch)
        ]
        return batches[me.rank :: me.world_size]


@dataclass
class PassResult:
    """What one process found in a pass."""

    scored: list[Scored] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
    times: PassTimes = field(default_factory=PassTimes)


@torch.inference_mode()
def run_pass(
    task: Task, journal: Journal, me: Processes, options: EvaluationOptions, title: str
) -> PassResult:
    """Predict and score this process's part; scores go to the journal as they come."""
    result, began = PassResult(), time.perf_counter()
    batches = task.todo(me)
    waiting: deque[Future[tuple[list[Scored], float]]] = deque()

    def collect(limit: int) -> None:
        while len(waiting) > limit or (waiting and waiting[0].done()):
            records, seconds = waiting.popleft().result()
            result.scored += records
            result.times.scoring += seconds

    # One core per scoring thread: a team of its own would spin between its small tasks on the model's cores.
    # Leaving the block waits, also after an error: what is predicted gets scored.
    with ThreadPoolExecutor(
        options.scoring_threads, "scoring", initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for names, batch in _stream(task, batches, me, options, result, title):
            answers = _device_answers(task, batch, me, options, result.times)
            job = _Job(task, batch, names, answers, options, journal)
            waiting.append(pool.submit(job.run))
            result.times.samples += len(names)
            collect(PENDING)
        collect(0)
    result.times.wall = time.perf_counter() - began
    return result


def _stream(
    task: Task,
    batches: Sequence[tuple[Request, ...]],
    me: Processes,
    options: EvaluationOptions,
    result: PassResult,
    title: str,
) -> Iterator[tuple[list[str], CoopBatch]]:
    """(names of the samples that could be read, their batch) of every batch with any."""
    if not batches:
        return
    dataset, requests = task.samples.dataset, [list(b) for b in batches]
    loader = make_loader(dataset, requests, collate_coop, options.num_workers, PREFETCH, me.device)
    stream = iter(loader)
    for wanted in progress(requests, desc=title, disable=not me.is_main):
        began = time.perf_counter()
        collated = draw(stream, dataset, wanted)
        result.times.waiting_for_data += time.perf_counter() - began
        result.bad += bad_records(collated.bad)
        if collated.batch is None:
            continue
        unread = {tuple(bad.keys) for bad in collated.bad}  # a list after some versions of torch pinned it
        good = [request for request in wanted if dataset.keys_of(*request) not in unread]
        yield [task.samples.name_of(request) for request in good], collated.batch


def _device_answers(
    task: Task, batch: CoopBatch, me: Processes, options: EvaluationOptions, times: PassTimes
) -> dict[str, tuple[Answer, FactoredPrediction | None, float]]:
    """The model's answer, on the CPU, with the prediction for the reference alone and the seconds it took."""
    began = time.perf_counter()
    alone = None
    moved = batch.to(me.device, non_blocking=True)
    with task.autocast():
        answer = ask(task.model, moved)
        if options.alone:
            part = moved.reference_only()
            alone = (
                answer.prediction
                if part.inputs.shape == moved.inputs.shape
                else ask(task.model, part).prediction
            )
    on_host = answer._replace(prediction=answer.prediction.to("cpu"))
    alone = None if alone is None else alone.to("cpu")
    seconds = time.perf_counter() - began
    times.inference += seconds
    return {task.model.name: (on_host, alone, seconds)}


@dataclass(frozen=True)
class _Job:
    """Score one batch, the model's answer and every host entrant's, and write it down."""

    task: Task
    batch: CoopBatch
    names: Sequence[str]
    answers: Mapping[str, tuple[Answer, FactoredPrediction | None, float]]
    options: EvaluationOptions
    journal: Journal

    @torch.inference_mode()
    def run(self) -> tuple[list[Scored], float]:
        """(records of every entrant and sample that is not done yet, seconds this took)."""
        began = time.perf_counter()
        records = [r for entrant in self.task.entrants for r in self._of(entrant)]
        for record in records:
            self.journal.append(record)
        return records, time.perf_counter() - began

    def _of(self, entrant: Entrant) -> list[Scored]:
        if all((entrant.name, sample) in self.task.done for sample in self.names):
            return []
        if entrant.name in self.answers:
            answer, alone, seconds = self.answers[entrant.name]
        else:
            began, alone = time.perf_counter(), None
            answer = ask(entrant, self.batch)
            seconds = time.perf_counter() - began
        return self._score(entrant.name, answer, alone, seconds)

    def _score(
        self, name: str, answer: Answer, alone: FactoredPrediction | None, seconds: float
    ) -> list[Scored]:
        targets = self.batch.targets
        rows, samples = score_batch(
            answer.prediction,
            targets,
            self.batch.keys,
            points=self.options.points,
            alone=alone,
            T_world_ref=self.batch.T_world_ref,
        )
        views = targets.range_m.shape[1]
        return [
            Scored(
                entrant=name,
                sample=sample,
                rows=tuple(rows[b * views : (b + 1) * views]),
                samples=tuple(samples[b : b + 1]),
                notes=answer.notes[b] if answer.notes else (),
                seconds=seconds / len(self.names),
            )
            for b, sample in enumerate(self.names)
            if (name, sample) not in self.task.done
        ]
