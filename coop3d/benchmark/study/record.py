"""``study.json`` and ``study.csv``: everything a study found, for programs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from coop3d.benchmark.study.outcome import ArmScores, Difference, SetOutcome
from coop3d.benchmark.study.plan import Study
from coop3d.benchmark.study.state import RunState, log_records, parameter_counts
from coop3d.environment import describe_environment
from coop3d.files import csv_text, write_json, write_text

FORMAT, VERSION = "coop3d-study", 1
CSV_COLUMNS = (
    "samples", "score", "arm", "own_budget", "seeds", "value", "low", "high", "sd_over_seeds", "against",
    "difference", "difference_low", "difference_high", "p", "p_holm", "p_permutation", "verdict",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an arm took, per run.

    Attributes:
        trainable, parameters: how many of the model's train, and how many it has; None: the run did not write it down.
        steps: optimiser steps.
        samples: instants seen in training, repeated ones counted.
        train_seconds, evaluate_seconds: wall clock, mean over finished runs.
        peak_memory_gib: resident memory of the largest training process, most of all runs.
        gpu_peak_gib: allocated on the first GPU, most of all runs; NaN without one.
    """

    trainable: int | None
    parameters: int | None
    steps: int
    samples: int
    train_seconds: float
    evaluate_seconds: float
    peak_memory_gib: float
    gpu_peak_gib: float


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A study, its runs, and what they say."""

    study: Study
    folder: Path
    states: tuple[RunState, ...]
    outcomes: tuple[SetOutcome, ...]

    @property
    def failures(self) -> list[str]:
        """One line per failed part of a run."""
        return [
            f"{s.run.name}, {what}: {failure.reason} ({failure.lines[-1].strip() if failure.lines else 'no output'})"
            for s in self.states
            for what, failure in s.failures.items()
        ]

    def cost(self, arm: str) -> Cost | None:
        """None while no run of the arm is trained."""
        done = [s for s in self.states if s.run.arm == arm and s.trained]
        if not done:
            return None
        run = done[0].run
        trainable, parameters = parameter_counts(run)
        return Cost(
            trainable=trainable,
            parameters=parameters,
            steps=run.steps,
            samples=run.steps * run.global_batch,
            train_seconds=sum(s.seconds("train") for s in done) / len(done),
            evaluate_seconds=sum(s.seconds("evaluate") for s in done) / len(done),
            peak_memory_gib=max((s.peak_memory_gib("train") or math.nan for s in done), default=math.nan),
            gpu_peak_gib=max((gpu_peak_gib(s) for s in done), default=math.nan),
        )


def gpu_peak_gib(state: RunState) -> float:
    """Most memory that training allocated on the first GPU; NaN without one."""
    known = [float(r["gpu_peak_gib"]) for r in log_records(state.run, "train") if "gpu_peak_gib" in r]
    return max(known, default=math.nan)


def write_record(result: StudyResult) -> None:
    """Write ``study.csv``, then ``study.json``."""
    write_text(result.folder / "study.csv", study_csv(result))
    write_json(result.folder / "study.json", study_json(result))


def study_json(result: StudyResult) -> dict[str, Any]:
    """The whole record, see docs/studies.md."""
    environment = describe_environment(1, {})
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "study": asdict(result.study),
        "code": environment.pop("git"),
        "environment": environment,
        "runs": [_run(state) for state in result.states],
        "results": {outcome.name: _outcome(outcome) for outcome in result.outcomes},
    }


def _run(state: RunState) -> dict[str, Any]:
    trainable, parameters = parameter_counts(state.run)
    return {
        "arm": state.run.arm,
        "seed": state.run.seed,
        "folder": state.run.folder,
        "overrides": state.run.overrides,
        "steps": state.run.steps,
        "trainable": trainable,
        "parameters": parameters,
        "global_batch": state.run.global_batch,
        "trained": state.trained,
        "evaluated": sorted(state.evaluated),
        "train_seconds": state.seconds("train"),
        "evaluate_seconds": state.seconds("evaluate"),
        "peak_memory_gib": state.peak_memory_gib("train"),
        "gpu_peak_gib": gpu_peak_gib(state),
        "attempts": [asdict(a) for a in state.attempts],
        "failures": {what: asdict(f) for what, f in state.failures.items()},
    }


def _outcome(outcome: SetOutcome) -> dict[str, Any]:
    return {
        "contract": outcome.contract,
        "warnings": outcome.warnings,
        "arms": {
            name: {
                "seeds": arm.seeds,
                "scores": {key: _score(arm, key) for key in outcome.keys},
                "differences": {key: _difference(d) for key, d in arm.differences.items()},
            }
            for name, arm in outcome.arms.items()
        },
    }


def _score(arm: ArmScores, key: str) -> dict[str, Any]:
    by_seed = {str(seed): scores[key] for seed, scores in arm.by_seed.items()}
    return {**asdict(arm.intervals[key]), "sd_over_seeds": arm.spread(key), "by_seed": by_seed}


def _difference(found: Difference) -> dict[str, Any]:
    return {
        **asdict(found.paired),
        "p_holm": found.p_holm,
        "seeds": found.seeds,
        "verdict": found.verdict,
        "significant": found.is_significant,
        "survives_holm": found.survives_holm,
    }


def study_csv(result: StudyResult) -> str:
    """A line per samples, score and arm."""
    lines: list[list[object]] = []
    for outcome in result.outcomes:
        for key in outcome.keys:
            for arm in outcome.arms.values():
                own = result.study.arms[arm.arm].own_budget
                interval, found = arm.intervals[key], arm.differences.get(key)
                line: list[object] = [outcome.name, key, arm.arm, own, len(arm.seeds)]
                line += [interval.value, interval.low, interval.high, arm.spread(key)]
                if found is not None:
                    pair = found.paired
                    line += [result.study.against, pair.difference, pair.low, pair.high]
                    line += [pair.p_bootstrap, found.p_holm, pair.p_permutation, found.verdict]
                lines.append(line + [""] * (len(CSV_COLUMNS) - len(line)))
    return csv_text(CSV_COLUMNS, lines)
