"""Options of an evaluation and of its robustness: declared here once, for Python and for Hydra."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf

from coop3d.benchmark.baselines import BASELINES
from coop3d.conf import register_schema


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Which samples are scored, and how they are fetched.

    Attributes:
        split: train, val or test of the run's config; unused with a contract.
        max_samples: keep so many, evenly spread; None: those the config gives, or the contract.
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
    baselines: tuple[str, ...] = tuple(BASELINES)
    baseline_samples: int = 200
    points: bool = False
    alone: bool = False
    scenes: int = 0


@dataclass(frozen=True, kw_only=True)
class RobustnessOptions(SampleOptions):
    """Options of `evaluate_robustness`.

    Attributes:
        disturbances: names of the catalogue; ``all`` for the usual ones.
        contract: a frame contract; exactly its samples are scored. None: those the run's config lists.
        seed: of the disturbances.
        resamples: draws of the bootstrap; no key of the config.
    """

    disturbances: tuple[str, ...] = ("all",)
    contract: str | None = None
    seed: int = 0
    resamples: int = field(default=2000, metadata={"omegaconf_ignore": True})

    @property
    def of_samples(self) -> EvaluationOptions:
        """The part that an ordinary evaluation has, too."""
        shared = {f.name: getattr(self, f.name) for f in fields(SampleOptions)}
        return EvaluationOptions(frames_json=self.contract, baselines=(), **shared)


@dataclass(frozen=True, kw_only=True)
class _Output:
    output_dir: str = MISSING


@dataclass(frozen=True, kw_only=True)
class _Command(SampleOptions, _Output):
    """What a command line says besides: the weights, and changes of the config saved with them."""

    overrides: list[str] = field(default_factory=list)  # e.g. machine.opv2v_images_root=/x
    checkpoint: Any = MISSING  # a path, or a list of paths: [a.pth,b.pth]


@dataclass(frozen=True, kw_only=True)
class EvaluateConf(EvaluationOptions, _Command):
    """Root of ``configs/evaluate.yaml``."""


@dataclass(frozen=True, kw_only=True)
class RobustnessConf(RobustnessOptions, _Command):
    """Root of ``configs/evaluate_robustness.yaml``."""

    checkpoint: str = MISSING
    disturbances: Any = "all"  # names, see --list: [black_front,jpeg30,rig1deg]; one needs no brackets


register_schema("evaluate_schema", EvaluateConf)
register_schema("robustness_schema", RobustnessConf)

OptionsT = TypeVar("OptionsT", bound=SampleOptions)


def options_of(cfg: DictConfig, kind: type[OptionsT]) -> OptionsT:
    """The options in a composed config."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    if isinstance(values.get("disturbances"), str):
        values["disturbances"] = [values["disturbances"]]
    lists_as_tuples = {k: tuple(map(str, v)) if isinstance(v, list) else v for k, v in values.items()}
    chosen: dict[str, Any] = {f.name: lists_as_tuples[f.name] for f in fields(kind) if f.name in values}
    return kind(**chosen)
