"""One number from several trainings: seeds as a further level of every interval.

An arm's score is the mean over seeds of the score of each trained model. Its uncertainty has two sources that cross:
which scenarios were driven, and which seeds were trained. Scenarios are drawn as in `coop3d.evaluation.statistics`, the
same for all seeds. A bootstrap of two or three seeds would be far too narrow (with three it misses a third of their
variance and all of Student's tails), so seeds are drawn through random *weights* instead: see `seed_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop3d.evaluation.estimators import Score
from coop3d.evaluation.scores import ScoreTable

Floats = NDArray[np.float64]


def seed_weights(resamples: int, seeds: int) -> Floats:
    """[R, K] random weights that sum to 1: ``weights @ v`` is ``mean(v) + t sd(v) / sqrt(K)``, t of Student with K - 1.

    So without uncertainty from scenarios the percentile interval is Student's interval of a mean, exactly as wide as K
    values justify. As the weights do not depend on the values, the difference of two arms that are drawn with the same
    weights is treated as the mean of K paired differences. One seed has weight 1: nothing is known of its spread.

    ``1 / K + (z - mean z) / sqrt(K chi2)``, z standard normal [K], chi2 with K - 1 degrees of freedom:
    ``(z - mean z) @ v`` is normal with variance ``(K - 1) sd(v)^2``.
    """
    if seeds == 1:
        return np.ones((resamples, 1))
    generator = np.random.default_rng([seeds, resamples])
    z = generator.standard_normal((resamples, seeds))
    chi2 = generator.chisquare(seeds - 1, (resamples, 1))
    return 1 / seeds + (z - z.mean(axis=1, keepdims=True)) / np.sqrt(seeds * chi2)


@dataclass(frozen=True)
class OverSeeds:
    """The mean over seeds of a score; a `Score` like any other.

    Attributes:
        parts: the score of each seed's model, over the same scenarios.
        spread: draw seeds, too; False: these trainings and no others, for the permutation test.
    """

    parts: tuple[Score, ...]
    spread: bool = True

    @property
    def scenario(self) -> NDArray[np.int64]:
        """[N] of the rows of one seed."""
        return self.parts[0].scenario

    def value(self) -> float:
        """Plain mean."""
        return float(np.mean([part.value() for part in self.parts]))

    def resample(self, counts: NDArray[np.int64]) -> Floats:
        """[R, S] to [R]: scenarios as counted, seeds by weight."""
        values = np.stack([part.resample(counts) for part in self.parts], axis=1)  # [R, K]
        K = len(self.parts)
        weights = seed_weights(len(counts), K) if self.spread else np.full(values.shape, 1 / K)
        return np.asarray((weights * values).sum(axis=1), np.float64)

    def joined(self, other: Any, scenarios: int) -> OverSeeds:
        """Seed by seed; exchanging arms within scenarios says nothing about seeds, so these are not drawn."""
        parts = [a.joined(b, scenarios) for a, b in zip(self.parts, other.parts, strict=True)]
        return OverSeeds(tuple(parts), spread=False)


def over_seeds(tables: Sequence[ScoreTable], keys: Sequence[str]) -> ScoreTable:
    """One table of an arm from those of its seeds, for `bootstrap` and `compare`.

    Raises:
        ValueError: the seeds scored different samples.
    """
    first = tables[0]
    if any(t.identities != first.identities or t.scenarios != first.scenarios for t in tables):
        raise ValueError("the seeds of an arm scored different samples; evaluate all of them on one contract")
    scores: dict[str, Score] = {key: OverSeeds(tuple(t.scores[key] for t in tables)) for key in keys}
    return ScoreTable(first.scenarios, scores, first.identities)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being several (Holm, Scandinavian J. of Statistics, 1979); NaN stays and does not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = largest
    return adjusted
