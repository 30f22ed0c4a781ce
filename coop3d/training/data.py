"""Loaders for streams of requests, and the count of samples that could not be read."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from coop3d.conf import BadSamplePolicy
from coop3d.training.sampler import Request
from coop3d.training.signals import STOP_SIGNALS
from coop3d.types import CoopBatch, SampleKey


class CoopDataset(Protocol):
    """A map from requests to samples, deterministic whatever the worker."""

    def __len__(self) -> int: ...

    def __getitem__(self, request: Request) -> Any: ...

    def num_views_of(self, epoch: int, index: int) -> int: ...

    def keys_of(self, epoch: int, index: int) -> tuple[SampleKey, ...]: ...


class BadSample(Protocol):
    """Data of a sample could not be used, and why."""

    @property
    def keys(self) -> tuple[SampleKey, ...]: ...

    @property
    def reason(self) -> str: ...


class Collated(Protocol):
    """One micro-batch as the loader yields it; ``batch`` is None when all its samples were bad."""

    @property
    def batch(self) -> CoopBatch | None: ...

    @property
    def bad(self) -> tuple[BadSample, ...]: ...


Collate = Callable[[Sequence[Any]], Collated]


class SampleError(RuntimeError):
    """A dataset raised where it should have returned a sample: a fault of code or machine."""


class BadSamplesError(RuntimeError):
    """More samples could not be read than the config allows."""


class _Named(Dataset):
    """Gives a worker's exception the name of the sample it was working on."""

    def __init__(self, dataset: CoopDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, request: Request) -> Any:
        try:
            return self.dataset[request]
        except Exception as error:
            epoch, index = request
            raise SampleError(
                f"sample {describe(self.dataset, request)} (pass {epoch}, index {index}) failed: "
                f"{type(error).__name__}: {error}"
            ) from error


def describe(dataset: CoopDataset, request: Request) -> str:
    """The vehicles of a request, as text."""
    return " + ".join(map(str, dataset.keys_of(*request)))


def make_loader(
    dataset: CoopDataset,
    batches: Iterable[list[Request]],
    collate: Collate,
    num_workers: int,
    prefetch: int,
    device: torch.device,
) -> DataLoader:
    """Loader over lists of requests. Draws nothing from the global generators."""
    return DataLoader(
        _Named(dataset),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
    )


def _start_worker(_: int) -> None:
    """Block stop signals in a worker: the trainer finishes its step, saves, and then ends its workers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes
    threading.Thread(target=_exit_when_trainer_says, daemon=True).start()
    import cv2  # here, so that importing this module loads no native library

    cv2.setNumThreads(0)


def _exit_when_trainer_says() -> None:
    """Exit on SIGTERM from the parent, which joins its workers without a timeout."""
    parent = multiprocessing.parent_process()
    trainer = (
        os.getppid() if parent is None else parent.pid
    )  # the parent process may be a fork server instead
    while True:
        told = signal.sigwaitinfo(STOP_SIGNALS)
        if told.si_signo == signal.SIGTERM and told.si_pid == trainer:
            os._exit(0)


def draw(stream: Iterator[Collated], dataset: CoopDataset, requests: Sequence[Request]) -> Collated:
    """Next micro-batch of the stream; if a worker died, the error names the samples it was preparing."""
    try:
        return next(stream)
    except (RuntimeError, ConnectionError) as error:
        if (better := explained(error, dataset, requests)) is error:
            raise
        raise better from error


def explained(
    error: RuntimeError | ConnectionError, dataset: CoopDataset, requests: Sequence[Request]
) -> RuntimeError | ConnectionError:
    """The error itself, or, for a loader process that was killed, one that names the samples it was preparing.

    torch raises that error from a signal handler, wherever the training process happens to be.
    """
    lost = isinstance(error, ConnectionError) or "DataLoader worker" in str(error)
    if isinstance(error, SampleError) or not lost:
        return error
    names = "; ".join(describe(dataset, r) for r in requests[:8])
    return SampleError(
        f"{error} The loader process was preparing {names}, or what follows. Usually host memory ran out: "
        "lower machine.num_workers or machine.prefetch_batches."
    )


@dataclass(frozen=True)
class BadRecord:
    """One bad sample, as it is logged and kept in checkpoints."""

    key: str
    reason: str


class BadSampleLedger:
    """Counts samples that could not be read over a whole run, and ends the run when there are too many.

    A broken file counts once, however many samples use it and however often they are drawn: reasons name the file,
    and samples with the same reason count as one. The number of bad samples since the last good one has the same
    limit, so that a run in which *nothing* can be read ends too.
    """

    def __init__(self, policy: BadSamplePolicy, limit: int) -> None:
        self.policy, self.limit = policy, limit
        self.reasons: dict[str, str] = {}
        self._since_good = 0

    def add(self, records: Sequence[BadRecord], good: int) -> list[BadRecord]:
        """Account for one global batch; returns the records whose reason was not seen before.

        Raises:
            BadSamplesError: with the list of samples and reasons.
        """
        known = set(self.reasons.values())
        new = [r for r in {r.reason: r for r in records}.values() if r.reason not in known]
        self.reasons |= {r.key: r.reason for r in new}
        self._since_good = 0 if good else self._since_good + len(records)
        if records and self.policy is BadSamplePolicy.stop:
            raise BadSamplesError(
                f"{self._listed(records)}\nStopped at the first bad sample (train_params.on_bad_sample=stop)."
            )
        if len(self.reasons) > self.limit or self._since_good > self.limit:
            everything = [BadRecord(k, r) for k, r in self.reasons.items()]
            raise BadSamplesError(
                f"{self._listed(everything)}\nThese {len(everything)} samples could not be read, more than "
                f"train_params.max_bad_samples={self.limit} allows (or none could be read for as long). "
                "Repair the data, or raise the limit."
            )
        return new

    def restore(self, reasons: dict[str, str]) -> None:
        """Restore from a checkpoint; in those of earlier code many samples have the same reason."""
        first: dict[str, str] = {}
        for key, reason in reasons.items():
            first.setdefault(reason, key)
        self.reasons = {key: reason for reason, key in first.items()}

    @staticmethod
    def _listed(records: Sequence[BadRecord]) -> str:
        return "\n".join(f"  {r.key}: {r.reason}" for r in records)


def bad_records(bad: Sequence[BadSample]) -> list[BadRecord]:
    """What to log of bad samples."""
    return [BadRecord(" + ".join(map(str, b.keys)), b.reason) for b in bad]
