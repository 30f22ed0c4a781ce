"""Statistics that know how to be computed again when scenarios are drawn with replacement.

``counts`` is always [R, S]: how often each of S scenarios occurs in each of R resamples. A row of a scenario
drawn twice counts twice; plain values are those of one resample with every scenario once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

CHUNK = 300_000  # values at a time: what fits a core's cache
Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
ScoreT = TypeVar("ScoreT", bound="_Joinable")


class Score(Protocol):
    """A number made of rows, each of a scenario."""

    @property
    def scenario(self) -> Codes:
        """[N] scenario of each row that counts."""
        ...

    def value(self) -> float:
        """The number; NaN if no row counts."""
        ...

    def resample(self, counts: NDArray[np.int64]) -> Floats:
        """[R, S] to [R]: the number for each resample."""
        ...

    def joined(self, other: Any, scenarios: int) -> Score:
        """Of the rows of both, with ``other``'s scenarios counted on from ``scenarios``."""
        ...


class _Joinable:
    """Joins field by field."""

    scenario: Codes

    def joined(self: ScoreT, other: ScoreT, scenarios: int) -> ScoreT:
        """See `Score.joined`."""
        mine, theirs = self.__dict__, other.__dict__ | {"scenario": other.scenario + scenarios}
        arrays = {k: np.concatenate([x, theirs[k]]) for k, x in mine.items() if isinstance(x, np.ndarray)}
        return replace(self, **arrays)  # type: ignore[type-var]


@dataclass(frozen=True)
class Ratio(_Joinable):
    """``sum part / sum whole`` (a mean, where whole is the weight), or its root."""

    part: Floats
    whole: Floats
    scenario: Codes
    root: bool = False

    def value(self) -> float:
        whole = float(self.whole.sum())
        ratio = float(self.part.sum()) / whole if whole else math.nan
        return math.sqrt(ratio) if self.root else ratio

    def resample(self, counts: NDArray[np.int64]) -> Floats:
        part, whole = (
            counts @ np.bincount(self.scenario, x, counts.shape[1]) for x in (self.part, self.whole)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(whole > 0, part / whole, math.nan)
        return np.sqrt(ratio) if self.root else ratio


@dataclass(frozen=True)
class Total(_Joinable):
    """``sum values``."""

    values: Floats
    scenario: Codes

    def value(self) -> float:
        return float(self.values.sum())

    def resample(self, counts: NDArray[np.int64]) -> Floats:
        return np.asarray(counts @ np.bincount(self.scenario, self.values, counts.shape[1]), np.float64)


@dataclass(frozen=True)
class Quantile(_Joinable):
    """Quantile ``q``, linear between order statistics as numpy's default."""

    values: Floats
    scenario: Codes
    q: float

    def value(self) -> float:
        return float(np.quantile(self.values, self.q)) if len(self.values) else math.nan

    def resample(self, counts: NDArray[np.int64]) -> Floats:
        if not len(self.values):
            return np.full(len(counts), math.nan)
        order = np.argsort(self.values, kind="stable")
        values, scenario = self.values[order], self.scenario[order]
        out, counts = np.empty(len(counts)), counts.astype(np.int32)  # half the memory traffic
        for rows in np.array_split(np.arange(len(counts)), max(1, counts.shape[0] * len(values) // CHUNK)):
            cumulative = counts[rows][:, scenario].cumsum(axis=1, dtype=np.int32)  # [r, N]
            out[rows] = _weighted_quantile(values, cumulative, self.q)
        return out


def _weighted_quantile(values: Floats, cumulative: NDArray[np.int32], q: float) -> Floats:
    """Weighted quantile of sorted ``values`` [N]; ``cumulative[r, i]`` counts repeats up to value i in resample r."""
    position = np.maximum(cumulative[:, -1] - 1, 0) * q
    low, high = np.floor(position).astype(np.int32), np.ceil(position).astype(np.int32)
    last = len(values) - 1
    at_low, at_high = (
        values[np.minimum(np.count_nonzero(cumulative <= k[:, None], axis=1), last)] for k in (low, high)
    )
    result = at_low + (position - low) * (at_high - at_low)
    return np.where(cumulative[:, -1] > 0, result, math.nan)
