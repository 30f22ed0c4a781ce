"""What models are scored beside: one row per baseline says what it is called, how it is made and drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from coop3d.benchmark.entrants import Blind, Entrant, Oracle
from coop3d.benchmark.input_sets import InputSet
from coop3d.conf import ConfigError
from coop3d.evaluation.baselines import (
    AllNonAmbiguous,
    ConstantDepth,
    GroundPlaneBaseline,
    GroundTruth,
    MeanDisplacement,
    NoisyGnss,
    ReferencePoseRepeated,
    RowMajorityMask,
    RowMedianDepth,
    TrainingStatistics,
    TrivialBaseline,
)
from coop3d.evaluation.classical_baseline import ClassicalBaseline


class LineStyle(NamedTuple):
    """How an entrant is drawn."""

    color: str
    linestyle: Any  # a name, or matplotlib's (offset, dashes)
    linewidth: float


@dataclass(frozen=True)
class Baseline:
    """One row of `BASELINES`.

    Attributes:
        title: its name in results and tables.
        kind: ``trivial`` (fitted on the training split), ``classical`` or ``oracle``, as results record it.
        make: the predictor, from `TrainingStatistics` if it is fitted, else from nothing.
        line: in plots.
    """

    title: str
    kind: str
    make: Callable[..., Any]
    line: LineStyle

    @property
    def is_fitted(self) -> bool:
        """Whether it needs `TrainingStatistics`."""
        return self.kind == "trivial"

    @property
    def inputs(self) -> str:
        """What it sees, as results record it."""
        return "truth" if self.kind == "oracle" else InputSet.images_rays_rig.value

    def entrant(self, statistics: TrainingStatistics | None = None) -> Entrant:
        """The baseline itself; ``statistics`` may be None where it is not fitted."""
        if self.kind == "oracle":
            return Oracle(self.title, self.make())
        assert statistics is not None or not self.is_fitted, f"{self.title} is fitted"
        predict = self.make(statistics) if self.is_fitted else self.make()
        return Blind(self.title, self.kind, predict, InputSet(self.inputs))


# By the name that options use, in the order of tables. "row" is not quite trivial any more: on a level road the row of
# a pixel alone tells the distance of the ground.
BASELINES = {
    "reference": Baseline(
        "reference pose + constant depth",
        "trivial",
        lambda s: TrivialBaseline(ReferencePoseRepeated(), ConstantDepth(s), AllNonAmbiguous()),
        LineStyle("#7f8b9a", ":", 1.5),
    ),
    "mean": Baseline(
        "mean displacement + constant depth",
        "trivial",
        lambda s: TrivialBaseline(MeanDisplacement(s), ConstantDepth(s), AllNonAmbiguous()),
        LineStyle("#7f8b9a", "-.", 1.2),
    ),
    "row": Baseline(
        "mean displacement + row depth",
        "trivial",
        lambda s: TrivialBaseline(MeanDisplacement(s), RowMedianDepth(s), RowMajorityMask(s)),
        LineStyle("#7f8b9a", "--", 1.5),
    ),
    "ground": Baseline(
        "reference pose + ground plane", "trivial", GroundPlaneBaseline, LineStyle("#9a8f5a", "--", 1.4)
    ),
    "classical": Baseline(
        "SIFT + generalised pose", "classical", ClassicalBaseline, LineStyle("#8a5fb0", "-.", 1.6)
    ),
    "gnss": Baseline("GNSS pose + true depth", "oracle", NoisyGnss, LineStyle("#4f9c8f", ":", 1.6)),
    "truth": Baseline("ground truth", "oracle", GroundTruth, LineStyle("#9aa6b5", (0, (1, 3)), 1.2)),
}
FITTED = tuple(name for name, baseline in BASELINES.items() if baseline.is_fitted)


def check_baselines(wanted: Sequence[str]) -> tuple[str, ...]:
    """The names, in the table's order.

    Raises:
        ConfigError: a name is unknown.
    """
    unknown = [name for name in wanted if name not in BASELINES]
    if unknown:
        raise ConfigError(f"baselines: {', '.join(unknown)} unknown; there are {', '.join(BASELINES)}.")
    return tuple(name for name in BASELINES if name in wanted)
