"""Options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from coop3d.benchmark.entrants import BASELINES


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Which samples, what is scored, and how samples are fetched.

    Attributes:
        split: train, val or test of the run's config; unused with ``frames_json``.
        max_samples: keep so many, evenly spread; None: those the config gives. Unused with ``frames_json``.
        frames_json: a frame contract; exactly its samples are scored.
        vehicles: with ``frames_json``: the first so many vehicles of each sample (1: the reference alone).
        on_missing: ``stop`` or ``skip`` where the data lack frames of the contract.
        inputs: what models may see, a value of `InputSet`.
        baselines: short names, see `BASELINES`.
        baseline_samples: training samples that baselines are fitted on.
        batch: samples per forward pass.
        num_workers: loader processes per process.
        scoring_threads: threads that score while the model predicts.
        device: auto, cpu or cuda.
        points: also score clouds (slower).
        alone: also ask the model about the reference vehicle by itself, for ``gain/...``.
        restart: begin again; what is in the folder is moved aside.
        report: write ``report.html`` and ``plots/``.
        scenes: point-cloud pages of so many worst and best samples.
    """

    split: str = "test"
    max_samples: int | None = None
    frames_json: str | None = None
    vehicles: int | None = None
    on_missing: str = "stop"
    inputs: str = "images+rays+rig"
    baselines: tuple[str, ...] = field(default_factory=lambda: tuple(BASELINES))
    baseline_samples: int = 200
    batch: int = 1
    num_workers: int = 2
    scoring_threads: int = 1
    device: str = "auto"
    points: bool = False
    alone: bool = False
    restart: bool = False
    report: bool = True
    scenes: int = 0
