"""What is known of a run: ``run.json`` in its folder, and the logs that training leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from coop3d.benchmark.study.commands import Run, training_identity
from coop3d.benchmark.study.plan import StudyError
from coop3d.files import write_text
from coop3d.training.run_log import read_log

FORMAT, VERSION = "coop3d-study-run", 1
TAIL_LINES = 20


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One process that was started for a run.

    Attributes:
        what: ``train``, or ``evaluate`` and the name of the samples.
        started: time in UTC.
        seconds: it took; of one that was killed together with its runner, up to the last line of its log.
        status: its exit status (minus the signal that ended it), None while unknown.
        peak_memory_gib: resident memory of its largest process; None where unknown.
    """

    what: str
    started: str
    seconds: float | None = None
    status: int | None = None
    peak_memory_gib: float | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a part of a run is not there."""

    status: int
    reason: str
    lines: tuple[str, ...]  # the last of its log


@dataclass
class RunState:
    """Progress of a run, written whenever it changes.

    Attributes:
        trained: training reached its last step.
        evaluated: name of the samples -> identity of the finished evaluation.
        attempts: every process, in order.
        failures: what the last attempt at it failed to do -> why.
    """

    run: Run
    trained: bool = False
    evaluated: dict[str, str] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Run) -> RunState:
        """What earlier calls left; a new state where there is nothing.

        Raises:
            StudyError: the folder holds another run, or the file is damaged.
        """
        path = run.folder / "run.json"
        if not path.exists():
            return cls(run=run)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if (content["format"], content["version"]) != (FORMAT, VERSION):
                raise StudyError(f"{path}: is no {FORMAT} of version {VERSION}; use another output_dir.")
            state = cls(
                run=run,
                trained=content["trained"],
                evaluated=dict(content["evaluated"]),
                attempts=[Attempt(**a) for a in content["attempts"]],
                failures={what: _failure(f) for what, f in content["failures"].items()},
            )
            before, identity = content["overrides"], content["identity"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise StudyError(
                f"{path}: is damaged ({type(error).__name__}: {error}). Move {run.folder} away to train it again."
            ) from error
        if identity != training_identity(run):
            raise StudyError(_changed(run, before))
        return state

    def write(self) -> None:
        """Whole or not at all."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "arm": self.run.arm,
            "seed": self.run.seed,
            "identity": training_identity(self.run),
            "overrides": list(self.run.overrides),
            "trained": self.trained,
            "evaluated": self.evaluated,
            "attempts": [asdict(a) for a in self.attempts],
            "failures": {what: asdict(f) for what, f in self.failures.items()},
        }
        write_text(self.run.folder / "run.json", json.dumps(content, indent=1) + "\n")

    def begin(self, what: str) -> None:
        """A process is about to be started."""
        self._close_killed()
        self.attempts.append(Attempt(what=what, started=datetime.now(timezone.utc).isoformat()))
        self.failures.pop(what, None)
        self.write()

    def end(self, seconds: float, status: int, peak_memory_gib: float) -> None:
        """It has ended."""
        self.attempts[-1] = replace(
            self.attempts[-1],
            seconds=round(seconds, 2),
            status=status,
            peak_memory_gib=round(peak_memory_gib, 3),
        )

    def fail(self, reason: str) -> None:
        """The last attempt did not do what it was for."""
        last = self.attempts[-1]
        lines = tail(log_file(self.run, last.what))
        self.failures[last.what] = Failure(status=last.status or 0, reason=reason, lines=lines)
        self.write()

    def seconds(self, what: str) -> float:
        """Wall seconds of all attempts at this, resumed ones added up."""
        return sum(a.seconds or 0.0 for a in self.attempts if a.what.split()[0] == what)

    def peak_memory_gib(self, what: str) -> float | None:
        """Largest of all attempts."""
        known = [
            a.peak_memory_gib
            for a in self.attempts
            if a.what.split()[0] == what and a.peak_memory_gib is not None
        ]
        return max(known, default=None)

    def _close_killed(self) -> None:
        """An attempt without an end was killed together with its runner."""
        if not self.attempts or self.attempts[-1].seconds is not None:
            return
        last = self.attempts[-1]
        log = log_file(self.run, last.what)
        began = datetime.fromisoformat(last.started).timestamp()
        seconds = max(0.0, log.stat().st_mtime - began) if log.exists() else 0.0
        self.attempts[-1] = replace(last, seconds=round(seconds, 2))


def log_file(run: Run, what: str) -> Path:
    """Where a process of a run writes what it says."""
    return run.folder / f"{what.split()[0]}.log"


def tail(path: Path) -> tuple[str, ...]:
    """Last lines of a log; of a progress bar's line, its last state."""
    if not path.exists():
        return ()
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return tuple(line for line in lines if line.strip())[-TAIL_LINES:]


def log_records(run: Run, kind: str) -> Iterator[dict[str, Any]]:
    """Records of the training's ``log.jsonl``."""
    return read_log(run.train_folder / "log.jsonl", kind)


def parameter_counts(run: Run) -> tuple[int | None, int | None]:
    """Trainable and all parameters, as the training wrote them into ``environment.json``; Nones before it does."""
    try:
        found = json.loads((run.train_folder / "environment.json").read_text(encoding="utf-8"))["parameters"]
        return int(found["trainable"]), int(found["total"])
    except (OSError, KeyError, TypeError, ValueError):
        return None, None


def validated_step(run: Run) -> int:
    """Step of the last validation, 0 before there is one; a finished training ends with one."""
    return max((int(r["step"]) for r in log_records(run, "val")), default=0)


def _failure(content: dict[str, Any]) -> Failure:
    return Failure(**{**content, "lines": tuple(content["lines"])})


def _changed(run: Run, before: list[str]) -> str:
    gone = [o for o in before if o not in run.overrides]
    new = [o for o in run.overrides if o not in before]
    return (
        f"{run.folder} holds a run of other overrides (then: {' '.join(gone) or 'in another order'}; now: "
        f"{' '.join(new) or 'in another order'}). Use another output_dir, or move that folder away to train it again."
    )
