"""Who is scored: predictors with the inputs they declare, and oracles that are shown the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from coop3d.benchmark.input_sets import InputSet
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
