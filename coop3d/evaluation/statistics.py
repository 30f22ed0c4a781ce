"""How sure is a number, and is one run better than another?

Frames of one scenario show the same streets and vehicles, so they are not independent: whole *scenarios* are drawn
(cluster bootstrap: Davison and Hinkley, "Bootstrap methods and their application", 1997, section 3.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop3d.evaluation.estimators import Score
from coop3d.evaluation.labels import better
from coop3d.evaluation.rows import RowT
from coop3d.evaluation.scores import ScoreTable

HEADLINE = (
    "pose/translation_m/median", "pose/translation_m/mean", "pose/translation_m/p90", "pose/rotation_deg/median",
    "pose/yaw_deg/median", "pose/direction_deg/median", "pose/sign_flip_rate", "pose/recall_1m_1deg",
    "pose/recall_2m_2deg", "pose/recall_5m_5deg", "pose/convention/auc_5", "pose/convention/auc_10",
    "pose/convention/auc_30", "scale/error/median", "scale/pooled/median", "range/abs_rel", "range/delta_125",
    "range/abs_rel_aligned", "mask/iou", "mask/ambiguous_iou", "confidence/ause", "points_filtered/chamfer_m",
    "points_filtered/fscore_50cm", "gain_filtered/fscore_50cm",
)  # fmt: skip
LEVEL = 0.95  # probability that an interval covers
FEW_SCENARIOS, FEW_SAMPLES = 8, 100
CERTAIN_SCENARIOS = 6  # of fewer nothing is called certain: by chance intervals exclude 0 too often
CERTAIN_P = 0.05
EXACT_SCENARIOS = 11  # up to here every assignment of signs is tried (2048)


@dataclass(frozen=True)
class Interval:
    """A number with its percentile interval over resampled scenarios."""

    value: float
    low: float
    high: float
    count: int  # rows that count
    scenarios: int  # that have such rows
    warning: str  # "" if there are enough


@dataclass(frozen=True)
class Comparison:
    """Run b against run a on the same samples."""

    a: float
    b: float
    difference: float  # b - a
    low: float  # interval of the difference
    high: float
    p_bootstrap: float  # two-sided: how often resampling changes the sign of the difference
    p_permutation: float  # two-sided: how often exchanging the runs in random scenarios differs as much
    count: int
    scenarios: int
    warning: str


def excludes_zero(comparison: Comparison) -> bool:
    """Whether the interval of the difference lies on one side of 0, over at least `CERTAIN_SCENARIOS`.

    Where nothing differs that still happens, to medians least and to means of skewed errors most: in 4 to 17 % of cases
    with 6 to 8 scenarios, in 4 to 12 % with 12, in 4 to 8 % with 50 (``benchmarks/false_certainty.py``).
    """
    enough = comparison.scenarios >= CERTAIN_SCENARIOS
    return enough and (comparison.low > 0 or comparison.high < 0)


def survives_permutation(comparison: Comparison) -> bool:
    """`excludes_zero`, and exchanging the runs agrees: by chance in about one of twenty cases at most."""
    return excludes_zero(comparison) and comparison.p_permutation < CERTAIN_P


def verdict(
    key: str, comparison: Comparison, is_certain: Callable[[Comparison], bool] = excludes_zero
) -> str:
    """What run b is against run a: ``better``, ``worse``, or "" where that is not certain or means nothing."""
    up = better(key)
    if up is None or not is_certain(comparison):
        return ""
    return "better" if (comparison.low > 0) == (up == "higher") else "worse"


def shortest_warning(intervals: Iterable[Interval]) -> str:
    """The least of what intervals with values suffer from, the same one whatever their order; "" if nothing."""
    warnings = {i.warning for i in intervals if i.count and i.warning}
    return min(warnings, key=lambda text: (len(text), text), default="")


def best_of(key: str, values: Mapping[str, float]) -> str:
    """The name whose finite value is best; "" where none is, or no direction is an improvement."""
    up, known = better(key), {name: v for name, v in values.items() if math.isfinite(v)}
    if up is None or not known:
        return ""
    return (max if up == "higher" else min)(known, key=lambda name: known[name])


def bootstrap(
    table: ScoreTable,
    keys: Sequence[str] = HEADLINE,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of summary numbers: the same seed gives the same intervals.

    Args:
        table: :func:`coop3d.evaluation.score_table` of a run.
        keys: names in the summary.
        resamples: number of draws of as many scenarios as there are, with replacement.
        seed: of the draws.
    """
    _check_keys(table, keys)
    counts = _draws(len(table.scenarios), resamples, seed)
    out = {}
    for key in keys:
        score = table.scores[key]
        low, high = _interval(score.resample(counts))
        out[key] = Interval(score.value(), low, high, *_support(score))
    return out


def compare(
    a: ScoreTable,
    b: ScoreTable,
    keys: Sequence[str] = HEADLINE,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Differences of two runs on the same samples; both see the same draws of scenarios.

    Raises:
        ValueError: the runs scored different samples (see :func:`common`), or a key is unknown.
    """
    _check_same(a, b)
    _check_keys(a, keys)
    counts = _draws(len(a.scenarios), resamples, seed)
    swapped = _swaps(len(a.scenarios), resamples, seed)
    return {key: _compare(a.scores[key], b.scores[key], counts, swapped) for key in keys}


def _compare(a: Score, b: Score, counts: NDArray[np.int64], swapped: NDArray[np.int64]) -> Comparison:
    difference = b.value() - a.value()
    drawn = b.resample(counts) - a.resample(counts)
    low, high = _interval(drawn)
    support = min(_support(a), _support(b))
    return Comparison(
        a.value(),
        b.value(),
        difference,
        low,
        high,
        _sign_p(drawn),
        _permutation_p(difference, a, b, swapped),
        *support,
    )


def _draws(scenarios: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """[R, S]: how often each scenario is drawn."""
    if not scenarios:
        raise ValueError("there are no rows to resample; evaluate at least one sample")
    return np.random.default_rng(seed).multinomial(scenarios, np.full(scenarios, 1 / scenarios), resamples)


def _swaps(scenarios: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """[R, S] of 0 and 1: the scenarios in which the two runs change places; all of them if these are few."""
    if scenarios <= EXACT_SCENARIOS:
        every = np.arange(2**scenarios)[:, None] >> np.arange(scenarios)
        return every & 1
    drawn = np.random.default_rng(seed + 1).integers(0, 2, (resamples, scenarios))
    drawn[0] = 0  # the observed assignment is one of the possible ones: p is never 0
    return drawn


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _sign_p(drawn: NDArray[np.float64]) -> float:
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return math.nan
    below, above = 1 + int((known <= 0).sum()), 1 + int((known >= 0).sum())
    return min(1.0, 2 * min(below, above) / (len(known) + 1))


def _permutation_p(difference: float, a: Score, b: Score, swapped: NDArray[np.int64]) -> float:
    if math.isnan(difference):
        return math.nan
    both = a.joined(b, swapped.shape[1])
    permuted = both.resample(np.hstack([swapped, 1 - swapped])) - both.resample(
        np.hstack([1 - swapped, swapped])
    )
    known = np.abs(permuted[~np.isnan(permuted)])
    return float((known >= abs(difference) * (1 - 1e-9) - 1e-12).mean())


def _support(score: Score) -> tuple[int, int, str]:
    count, scenarios = len(score.scenario), len(np.unique(score.scenario))
    warnings = []
    if scenarios < FEW_SCENARIOS:
        warnings.append(f"only {scenarios} scenarios ({_about_few(scenarios)})")
    if count < FEW_SAMPLES:
        warnings.append(f"only {count} values (fewer than {FEW_SAMPLES})")
    return count, scenarios, "; ".join(warnings)


def _about_few(scenarios: int) -> str:
    narrow = f"fewer than {FEW_SCENARIOS}: intervals are too narrow"
    if scenarios >= CERTAIN_SCENARIOS:
        return narrow
    return f"{narrow}; fewer than {CERTAIN_SCENARIOS}: nothing is called certain"


def _check_keys(table: ScoreTable, keys: Sequence[str]) -> None:
    unknown = [k for k in keys if k not in table.scores]
    if unknown:
        raise ValueError(f"unknown summary keys {unknown}; known are {', '.join(table.scores)}")


def _check_same(a: ScoreTable, b: ScoreTable) -> None:
    only_a, only_b = a.identities - b.identities, b.identities - a.identities
    if only_a or only_b:
        example = sorted(only_a or only_b)[0]
        raise ValueError(
            f"the runs scored different samples: {len(only_a)} rows are only in the first, {len(only_b)} only in "
            f"the second, for instance {example}; keep the common ones with coop3d.evaluation.common"
        )


def common(a: Iterable[RowT], b: Iterable[RowT]) -> tuple[list[RowT], list[RowT]]:
    """The rows of two runs that both have, in the order of each."""
    a, b = list(a), list(b)
    shared = {r.identity for r in a} & {r.identity for r in b}
    return [r for r in a if r.identity in shared], [r for r in b if r.identity in shared]
