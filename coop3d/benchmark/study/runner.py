"""Runs of a study, one process each: resumable, several at once, failures recorded while the rest goes on."""

from __future__ import annotations

import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from tqdm import tqdm

from coop3d.benchmark.study.commands import (
    Run,
    evaluate_command,
    evaluation_identity,
    train_command,
)
from coop3d.benchmark.study.plan import Study, StudyError
from coop3d.benchmark.study.state import RunState, log_file, log_records, validated_step
from coop3d.files import lock_at_once
from coop3d.progress import logging_redirect_tqdm, progress

log = logging.getLogger(__name__)

POLL_S = 5.0
SAMPLE_S = 0.25
KIB_PER_GIB = 1 << 20
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """The study was asked to stop; what ran has saved its state."""


class StudyRunner:
    """Trains and evaluates runs.

    Args:
        study: what the runs are of.
        folder: of the study's output; locked while runs go on, also by processes that outlive a killed runner.
        jobs: runs at the same time.
        processes: of each run; above 1 they are started by torchrun, one per GPU where there are GPUs.

    Raises:
        StudyError: there are fewer GPUs than that takes.
    """

    def __init__(self, study: Study, folder: Path, jobs: int = 1, processes: int = 1) -> None:
        self.study, self.folder, self.jobs, self.processes = study, folder, jobs, processes
        self.sets = study.evaluation.sets()
        self.gpus = visible_gpus()
        if self.gpus and len(self.gpus) < jobs * processes:
            raise StudyError(
                f"--jobs {jobs} --processes {processes} take {jobs * processes} GPUs, {len(self.gpus)} are visible."
            )
        self._lock_fd = -1
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._active: dict[int, Run] = {}  # process id -> run
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(jobs):
            self._slots.put(slot)

    def __call__(self, runs: Sequence[Run]) -> list[RunState]:
        """Do what is left of all runs, from the main thread (it handles signals); states in the same order.

        Raises:
            StudyError: another call works in the folder, or a run's folder holds something else.
            Stopped: after SIGINT or SIGTERM, once everything that ran has saved and left.
        """
        with locked(self.folder / ".lock") as self._lock_fd, self._stoppable(), logging_redirect_tqdm():
            states = [RunState.read(run) for run in runs]  # all folders are right, or nothing starts
            with (
                ThreadPoolExecutor(self.jobs) as pool,
                progress(total=len(runs), unit="run") as bar,
            ):
                futures = {pool.submit(self._do, state): state.run for state in states}
                try:
                    self._watch(futures, bar)
                except BaseException:
                    self.stop()
                    raise
        if self._stopping.is_set():
            raise Stopped("Stopped on request; the same command goes on from here.")
        return states

    def stop(self) -> None:
        """Ask everything that runs to save and leave."""
        self._stopping.set()
        with self._guard:
            for pid in self._active:
                os.kill(pid, signal.SIGTERM)

    def _watch(self, futures: Mapping[Future[None], Run], bar: tqdm) -> None:
        pending = set(futures)
        while pending:
            done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
            for future in done:
                future.result()
                bar.update()
            with self._guard:
                active = list(self._active.values())
            state = ", ".join(f"{r.name} {_last_step(r)}/{r.steps}" for r in active)
            bar.set_postfix_str(state, refresh=sys.stderr.isatty())

    def _do(self, state: RunState) -> None:
        slot = self._slots.get()
        try:
            if not state.trained:
                self._train(state, slot)
            if state.trained:
                for name in self.sets:
                    self._evaluate(state, name, slot)
        finally:
            self._slots.put(slot)

    def _train(self, state: RunState, slot: int) -> None:
        if not self._attempt(state, "train", train_command(state.run, self.processes), slot):
            return
        reached = validated_step(state.run)
        if reached >= state.run.steps:
            state.trained = True
            state.write()
        elif not self._stopping.is_set():
            reason = f"ended early, validated at step {reached} of {state.run.steps}"
            state.fail(reason)
            log.error("%s: training %s", state.run.name, reason)

    def _evaluate(self, state: RunState, name: str, slot: int) -> None:
        contract = self.sets[name]
        identity = evaluation_identity(self.study, contract)
        if state.evaluated.get(name) == identity:
            return
        command = evaluate_command(state.run, self.study, name, contract, self.processes)
        if state.evaluated.pop(name, None) is not None:
            command.append("restart=true")  # of other settings: moved aside, once
        if self._attempt(state, f"evaluate {name}", command, slot):
            state.evaluated[name] = identity
            state.write()

    def _attempt(self, state: RunState, what: str, command: Sequence[str], slot: int) -> bool:
        """Run a command to its end; whether it did what it was for."""
        if self._stopping.is_set():
            return False
        run = state.run
        run.folder.mkdir(parents=True, exist_ok=True)
        state.begin(what)
        started = time.perf_counter()
        with log_file(run, what).open("ab") as output:
            output.write(f"\n$ {' '.join(command)}\n".encode())
            output.flush()
            status, peak_kib = self._wait(run, command, output.fileno(), slot)
        state.end(time.perf_counter() - started, status, peak_kib / KIB_PER_GIB)
        if status == 0 or self._stopping.is_set():
            state.write()
            return status == 0
        state.fail(f"ended with status {status}")
        log.error("%s: %s ended with status %d; see %s", run.name, what, status, log_file(run, what))
        return False

    def _wait(self, run: Run, command: Sequence[str], output: int, slot: int) -> tuple[int, int]:
        """Exit status and largest resident memory in KiB."""
        with self._guard:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=self.environment(slot), pass_fds=(self._lock_fd,),
                start_new_session=True,  # a Ctrl-C is for the runner, which passes it on as SIGTERM: save and leave
            )  # fmt: skip
            self._active[process.pid] = run
        peak = 0
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            peak = max(peak, peak_memory_kib(process.pid))
            time.sleep(SAMPLE_S)
        # Until wait() the zombie keeps its pid, so stop() cannot signal an unrelated process.
        with self._guard:
            del self._active[process.pid]
            return process.wait(), peak

    def environment(self, slot: int) -> dict[str, str]:
        """Of the processes that are started in a slot: its share of GPUs, or of the cores."""
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.gpus:
            first = slot * self.processes
            env["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus[first : first + self.processes])
        else:
            cores = os.cpu_count() or 1
            env.setdefault("OMP_NUM_THREADS", str(max(1, cores // (self.jobs * self.processes))))
            env.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: no need to resolve its name
        return env

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        def on_signal(number: int, frame: FrameType | None) -> None:
            # a handler runs between two instructions of this thread, which may hold the lock
            threading.Thread(target=self.stop, daemon=True).start()

        before = {number: signal.signal(number, on_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def visible_gpus() -> list[str]:
    """Names of the GPUs for ``CUDA_VISIBLE_DEVICES``."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return listed.split(",")[:count] if listed else [str(i) for i in range(count)]


def peak_memory_kib(pid: int) -> int:
    """Largest resident memory that a process or one of its descendants has had so far (Linux).

    Not what ``wait4`` reports: that of a child begins with the memory of the process which started it.
    """
    peak, pending = 0, [str(pid)]
    while pending:
        folder = Path("/proc", pending.pop())
        try:
            status = (folder / "status").read_text()
            pending += [p for path in folder.glob("task/*/children") for p in path.read_text().split()]
        except OSError:
            continue  # it has ended
        if match := re.search(r"VmHWM:\s*(\d+) kB", status):
            peak = max(peak, int(match[1]))
    return peak


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """A descriptor that holds the lock on ``path``; processes that inherit it hold it too.

    Raises:
        StudyError: somebody else does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            lock_at_once(descriptor, path)
        except BlockingIOError as error:
            raise StudyError(
                f"{path.parent}: another call works here, or a training that an ended call left behind (lsof {path} "
                "names it). Wait for it, or end it."
            ) from error
        yield descriptor
    finally:
        os.close(descriptor)


def _last_step(run: Run) -> int:
    return max((int(r["step"]) for r in log_records(run, "train")), default=0)
