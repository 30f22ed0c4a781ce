"""What a study found: scores of arms over seeds, and paired differences to one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import stdev

from coop3d.benchmark.compare import common_ground
from coop3d.benchmark.pixels import VIEW_FREE, other_pixels
from coop3d.benchmark.results import Result, read_result
from coop3d.benchmark.study.plan import Study
from coop3d.benchmark.study.seeds import holm, over_seeds
from coop3d.benchmark.study.state import RunState
from coop3d.evaluation import (
    HEADLINE,
    Comparison,
    Interval,
    ScoreTable,
    better,
    bootstrap,
    compare,
    shortest_warning,
    verdict,
)

RESAMPLES = 4000
FEW_SEEDS = 3
LEVEL = 0.05  # of a p-value, adjusted for the number of arms
Cell = tuple[str, int]  # arm, seed


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm against the one that the study compares with.

    Attributes:
        paired: difference with interval; over the seeds that both have.
        seeds: these.
        p_holm: `Comparison.p_bootstrap` adjusted for the number of arms.
        verdict: ``better``, ``worse``, ``unclear`` (the interval holds 0, or too few seeds or scenarios), ``not
            comparable`` (measured on other pixels, or against another truth), or ``neutral`` (neither direction is an
            improvement).
    """

    paired: Comparison
    seeds: tuple[int, ...]
    p_holm: float
    verdict: str

    @property
    def is_significant(self) -> bool:
        """The 95 % interval excludes 0, over enough seeds and scenarios."""
        return self.verdict in ("better", "worse")

    @property
    def survives_holm(self) -> bool:
        """Significant also when all arms are looked at together."""
        return self.is_significant and self.p_holm < LEVEL


@dataclass(frozen=True, kw_only=True)
class ArmScores:
    """One arm on one set of samples.

    Attributes:
        seeds: trained and evaluated.
        by_seed: seed -> key -> score of that model.
        intervals: key -> mean over seeds with its interval over scenarios and seeds.
        differences: key -> against the study's `against`; empty for that arm itself, or where it is missing.
    """

    arm: str
    seeds: tuple[int, ...]
    by_seed: Mapping[int, Mapping[str, float]]
    intervals: Mapping[str, Interval]
    differences: Mapping[str, Difference]

    def values(self, key: str) -> list[float]:
        """Scores of the single models."""
        return [self.by_seed[seed][key] for seed in self.seeds]

    def spread(self, key: str) -> float:
        """Standard deviation over seeds (K - 1); NaN for one."""
        return stdev(self.values(key)) if len(self.seeds) > 1 else math.nan


@dataclass(frozen=True, kw_only=True)
class SetOutcome:
    """All arms on one contract or split.

    Attributes:
        name: of the contract or split.
        contract: head of the evaluations: name, hashes, number of samples.
        arms: by name, in the study's order; only those with a finished run.
        keys: headline scores with a number in some arm.
        warnings: what a reader must know.
    """

    name: str
    contract: Mapping[str, object]
    arms: Mapping[str, ArmScores]
    keys: tuple[str, ...]
    warnings: tuple[str, ...]


def read_results(states: Sequence[RunState], set_name: str, identity: str) -> dict[Cell, Result]:
    """Finished evaluations on one set.

    Args:
        states: of the study's runs.
        set_name: of the contract or split.
        identity: of the evaluation as the study has it now (`evaluation_identity`); others are left out.

    Raises:
        ResultError: one cannot be read.
    """
    return {
        (s.run.arm, s.run.seed): read_result(s.run.evaluation_folder(set_name))
        for s in states
        if s.trained and s.evaluated.get(set_name) == identity
    }


def study_outcome(
    study: Study, name: str, results: Mapping[Cell, Result], resamples: int = RESAMPLES
) -> SetOutcome:
    """Pool seeds and compare arms on the samples that all runs scored.

    Args:
        study: order of arms, and the one to compare with.
        name: of the contract or split.
        results: of each arm and seed.
        resamples: draws of scenarios and seeds.

    Raises:
        ContractError: runs scored different samples.
        ValueError: there is no result.
    """
    if not results:
        raise ValueError(f"{name}: no run of the study is trained and evaluated yet")
    ground = common_ground([replace(r, folder=Path(*cell_name(c))) for c, r in results.items()])
    entrants = dict(zip(results, ground.entrants, strict=True))
    tables = {cell: e.table for cell, e in entrants.items()}
    seeds = {arm: tuple(s for s in study.seeds if (arm, s) in results) for arm in study.arms}
    seeds = {arm: of_arm for arm, of_arm in seeds.items() if of_arm}
    keys = tuple(k for k in HEADLINE if any(math.isfinite(t.scores[k].value()) for t in tables.values()))
    models = {arm: results[arm, of_arm[0]].models[0] for arm, of_arm in seeds.items()}
    others = {
        arm for arm in seeds if study.against in models and other_pixels(models[study.against], models[arm])
    }
    compared = _comparisons(study, tables, seeds, keys, resamples)
    arms = {
        arm: ArmScores(
            arm=arm,
            seeds=of_arm,
            by_seed={s: {k: tables[arm, s].scores[k].value() for k in keys} for s in of_arm},
            intervals=bootstrap(over_seeds([tables[arm, s] for s in of_arm], keys), keys, resamples),
            differences=_judged(compared, arm, arm in others),
        )
        for arm, of_arm in seeds.items()
    }
    contract = next(iter(results.values())).contract
    warnings = (*ground.warnings, *_warnings(study, arms, others))
    return SetOutcome(name=name, contract=contract, arms=arms, keys=keys, warnings=warnings)


def cell_name(cell: Cell) -> tuple[str, str]:
    """Arm and seed as folders."""
    return cell[0], f"seed{cell[1]}"


Paired = dict[str, tuple[dict[str, Comparison], tuple[int, ...]]]  # arm -> key -> comparison; common seeds


def _comparisons(
    study: Study,
    tables: Mapping[Cell, ScoreTable],
    seeds: Mapping[str, tuple[int, ...]],
    keys: Sequence[str],
    resamples: int,
) -> Paired:
    """Seed by seed against the same seed of the base arm: order of samples and first weights are the same there."""
    found: Paired = {}
    for arm in seeds:
        shared = tuple(s for s in seeds[arm] if s in seeds.get(study.against, ()))
        if arm == study.against or not shared:
            continue
        a, b = (over_seeds([tables[name, s] for s in shared], keys) for name in (study.against, arm))
        found[arm] = compare(a, b, keys, resamples), shared
    return found


def _judged(compared: Paired, arm: str, other_pixels: bool) -> dict[str, Difference]:
    if arm not in compared:
        return {}
    pairs, seeds = compared[arm]
    out = {}
    for key, pair in pairs.items():
        family = [of_arm[key].p_bootstrap for of_arm, _ in compared.values()]
        p_holm = holm(family)[list(compared).index(arm)]
        found = _verdict(key, pair, len(seeds), other_pixels)
        out[key] = Difference(paired=pair, seeds=seeds, p_holm=p_holm, verdict=found)
    return out


def _verdict(key: str, pair: Comparison, seeds: int, other_pixels: bool) -> str:
    if other_pixels and not key.startswith(VIEW_FREE):
        return "not comparable"
    if better(key) is None:
        return "neutral"
    return (verdict(key, pair) if seeds > 1 else "") or "unclear"


def _warnings(study: Study, arms: Mapping[str, ArmScores], others: set[str]) -> list[str]:
    lines = []
    if study.against not in arms:
        lines.append(f"{study.against}, which arms are compared with, has no finished run: no differences")
    missing = [f"{a} {len(s.seeds)}" for a, s in arms.items() if len(s.seeds) < len(study.seeds)]
    absent = [arm for arm in study.arms if arm not in arms]
    if missing or absent:
        some = ", ".join([*missing, *(f"{arm} 0" for arm in absent)])
        lines.append(f"of {len(study.seeds)} seeds, some arms have fewer: {some}")
    fewest = min((len(s.seeds) for s in arms.values()), default=0)
    if fewest == 1:
        lines.append(
            "one seed: how much another training would differ is in no interval, so no difference is called certain"
        )
    elif fewest < FEW_SEEDS:
        lines.append(
            f"only {fewest} seeds: intervals are as wide as Student's t demands, 12.7 standard errors"
        )
    intervals = [s.intervals[k] for s in arms.values() for k in study.scores if k in s.intervals]
    if warning := shortest_warning(intervals):
        lines.append(warning)
    if others:
        lines.append(
            f"{', '.join(sorted(others))}: range, scale, mask, confidence and points are measured on other pixels or "
            f"another truth than those of {study.against}; shown, but not compared"
        )
    own = [arm.name for arm in study.arms.values() if arm.own_budget]
    if own:
        lines.append(f"OWN BUDGET: {', '.join(own)} did not train as long as the others; see steps")
    return lines
