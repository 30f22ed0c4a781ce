"""Options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from coop3d.benchmark.baselines import BASELINES


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Which samples are scored, and how they are fetched.

    Attributes:
        split: train, val or test of the run's config; unused with a contract.
        max_samples: keep so many, evenly spread; None: those the config gives. Unused with a contract.
        on_missing: ``stop`` or ``skip`` where the data lack frames of the contract.
        inputs: what models may see, a value of `InputSet`.
        batch: samples per forward pass.
        num_workers: loader processes per process.
        scoring_threads: threads that score while the model predicts.
        device: auto, cpu or cuda.
        restart: begin again; what is in the folder is moved aside.
        report: write ``report.html`` and ``plots/``.
    """

    split: str = "test"
    max_samples: int | None = None
    on_missing: str = "stop"
    inputs: str = "images+rays+rig"
    batch: int = 1
    num_workers: int = 2
    scoring_threads: int = 1
    device: str = "auto"
    restart: bool = False
    report: bool = True


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(SampleOptions):
    """Options of `evaluate`.

    Attributes:
        frames_json: a frame contract; exactly its samples are scored.
        vehicles: with ``frames_json``: the first so many vehicles of each sample (1: the reference alone).
        baselines: short names, see `BASELINES`.
        baseline_samples: training samples that baselines are fitted on.
        points: also score clouds (slower).
        alone: also ask the model about the reference vehicle by itself, for ``gain/...``; needs ``points``.
        scenes: point-cloud pages of so many worst and best samples.
    """

    frames_json: str | None = None
    vehicles: int | None = None
    baselines: tuple[str, ...] = field(default_factory=lambda: tuple(BASELINES))
    baseline_samples: int = 200
    points: bool = False
    alone: bool = False
    scenes: int = 0
