"""Who is scored: trained models, trivial and classical predictors, and oracles; each with what it may see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from coop3d.benchmark.input_sets import InputSet
from coop3d.conf import ConfigError
from coop3d.evaluation.baselines import (
    GroundPlaneBaseline,
    GroundTruth,
    NoisyGnss,
    TrainingStatistics,
    standard_baselines,
)
from coop3d.evaluation.classical_baseline import ClassicalBaseline
from coop3d.types import CoopBatch, FactoredPrediction, SampleKey, ViewInputs, ViewTargets

Predictor = Callable[[ViewInputs], FactoredPrediction]
OraclePredictor = Callable[[ViewTargets, Sequence[Sequence[SampleKey]]], FactoredPrediction]
Notes = tuple[tuple[str, ...], ...]  # per sample


class Answer(NamedTuple):
    """What an entrant says of a batch."""

    prediction: FactoredPrediction
    notes: Notes = ()


@dataclass(frozen=True)
class Blind:
    """A predictor that is called with its declared inputs and cannot reach anything else."""

    name: str
    kind: str  # "checkpoint", "trivial" or "classical"
    predict: Predictor
    inputs: InputSet

    def answer(self, inputs: ViewInputs) -> Answer:
        """Its prediction; a predictor with a method ``solve`` also says how it came about."""
        seen = self.inputs.restrict(inputs)
        solve: Any = getattr(self.predict, "solve", None)
        if solve is None:
            return Answer(self.predict(seen))
        prediction, notes = solve(seen)
        return Answer(prediction, tuple(notes))


@dataclass(frozen=True)
class Oracle:
    """A predictor that is shown the truth, to say what could be reached and what one error costs."""

    name: str
    predict: OraclePredictor
    kind: str = "oracle"
    inputs: None = None

    def answer(self, targets: ViewTargets, keys: Sequence[Sequence[SampleKey]]) -> Answer:
        """Its prediction."""
        return Answer(self.predict(targets, keys))


Entrant = Blind | Oracle


def ask(entrant: Entrant, batch: CoopBatch) -> Answer:
    """The only place where a batch is split between those who may see the truth and those who may not."""
    if isinstance(entrant, Oracle):
        return entrant.answer(batch.targets, batch.keys)
    return entrant.answer(batch.inputs)


# short name -> name in tables
BASELINES = {
    "reference": "reference pose + constant depth",
    "mean": "mean displacement + constant depth",
    "row": "mean displacement + row depth",
    "ground": "reference pose + ground plane",
    "classical": "SIFT + generalised pose",
    "gnss": "GNSS pose + true depth",
    "truth": "ground truth",
}
# short name -> (kind, what it sees), as results record them
KINDS = {
    **dict.fromkeys(("reference", "mean", "row", "ground"), ("trivial", InputSet.images_rays_rig.value)),
    "classical": ("classical", InputSet.images_rays_rig.value),
    "gnss": ("oracle", "truth"),
    "truth": ("oracle", "truth"),
}
FITTED = ("reference", "mean", "row", "ground")  # need `TrainingStatistics`


def check_baselines(wanted: Sequence[str]) -> tuple[str, ...]:
    """The names, in the table's order.

    Raises:
        ConfigError: a name is unknown.
    """
    unknown = [name for name in wanted if name not in BASELINES]
    if unknown:
        raise ConfigError(f"baselines: {', '.join(unknown)} unknown; there are {', '.join(BASELINES)}.")
    return tuple(name for name in BASELINES if name in wanted)


def make_baselines(wanted: Sequence[str], statistics: TrainingStatistics | None) -> list[Entrant]:
    """Entrants by short name; ``statistics`` may be None where none of `FITTED` is wanted."""
    full = InputSet.images_rays_rig
    entrants: list[Entrant] = []
    for name in wanted:
        title = BASELINES[name]
        if name == "truth":
            entrants.append(Oracle(title, GroundTruth()))
        elif name == "gnss":
            entrants.append(Oracle(title, NoisyGnss()))
        elif name == "classical":
            entrants.append(Blind(title, "classical", ClassicalBaseline(), full))
        else:
            assert statistics is not None, f"{name} is fitted"
            trivial = GroundPlaneBaseline if name == "ground" else None
            predict = standard_baselines(statistics)[title] if trivial is None else trivial(statistics)
            entrants.append(Blind(title, "trivial", predict, full))
    return entrants
