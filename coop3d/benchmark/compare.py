"""Several evaluations side by side: paired differences, winners where they are certain, the checkpoint to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coop3d.benchmark.pixels import GAINS, POSES_COMPARE, about_pixels, comparable, same_gain
from coop3d.benchmark.results import EntrantResult, Result, by_run, summarised, with_trajectories
from coop3d.evaluation import (
    CERTAIN_SCENARIOS,
    HEADLINE,
    Comparison,
    ScoreTable,
    best_of,
    better,
    common,
    compare,
    per_vehicle,
    survives_permutation,
    views_per_vehicle,
)
from coop3d.evaluation.contracts import ContractError
from coop3d.files import names_apart, without_common_end

WEIGHTS = {
    "pose/translation_m/median": 1.0,
    "pose/rotation_deg/median": 1.0,
    "range/abs_rel": 1.0,
    "scale/error/median": 0.5,
    "mask/iou": 0.25,
}
FLOOR = 1e-3  # errors below it count as this much: no score is infinitely better than another


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """What `compare_results` found.

    Attributes:
        entrants: reduced to the samples that all have, summaries and intervals computed again; the first is the
            one that differences are against.
        keys: summary keys with a number in some run.
        judged: those of them that mean the same in all runs: only poses where pixels are not the same, no gain where
            only some were asked about the reference alone.
        differences: name -> key -> paired comparison with the first entrant.
        winners: key -> name, only where the winner's difference to every other run is certain: `survives_permutation`.
        scores: name -> weighted score, see `weighted_scores`.
        best: name with the smallest score; "" where no weighted score has a number in all runs.
        advice: on the checkpoints of each run over its steps; empty without a curve.
        warnings: what a reader must know, e.g. that contracts differ.
    """

    entrants: tuple[EntrantResult, ...]
    keys: tuple[str, ...]
    judged: tuple[str, ...]
    differences: Mapping[str, Mapping[str, Comparison]]
    winners: Mapping[str, str]
    scores: Mapping[str, float]
    best: str
    advice: str
    warnings: tuple[str, ...]


def compare_results(
    results: Sequence[Result],
    keys: Sequence[str] = HEADLINE,
    weights: Mapping[str, float] = WEIGHTS,
    allow_different_contracts: bool = False,
    baselines: bool = False,
    resamples: int = 2000,
) -> RunComparison:
    """Compare the models of several evaluations on the samples that all of them scored.

    Args:
        results: from `read_result`.
        keys: summary keys to compare.
        weights: of the score that chooses a checkpoint.
        allow_different_contracts: compare all the same, on common samples, and say so in the result.
        baselines: also take the first result's baselines.
        resamples: draws of the bootstrap.

    Raises:
        ContractError: contracts differ and that was not allowed, or no sample is common.
        ValueError: there are fewer than two entrants, or a key is unknown.
    """
    ground = common_ground(results, allow_different_contracts, baselines)
    entrants = list(ground.entrants)
    if len(entrants) < 2:
        raise ValueError("comparing needs two models; give another evaluation, or one of several checkpoints")
    alike = ground.same_pixels, same_gain(entrants)
    weights = {k: weights[k] for k in comparable(weights, *alike)}
    tables = {e.name: e.table for e in entrants}
    first = entrants[0].name
    _check_keys([*keys, *weights], tables[first])
    entrants = [summarised(e, keys, resamples) for e in entrants]
    shown = tuple(k for k in keys if any(math.isfinite(e.summary[k]) for e in entrants))
    judged = comparable(shown, *alike)
    scores = weighted_scores({e.name: e.summary for e in entrants if e.kind == "checkpoint"}, weights)
    return RunComparison(
        entrants=tuple(entrants),
        keys=shown,
        judged=judged,
        differences={e.name: compare(tables[first], tables[e.name], shown, resamples) for e in entrants[1:]},
        winners=_winners(entrants, tables, judged, resamples),
        scores=scores,
        best=min(
            (name for name in scores if math.isfinite(scores[name])), key=scores.__getitem__, default=""
        ),
        advice=stopping_advice(entrants, scores),
        warnings=(
            *ground.warnings,
            *ground.pixel_warnings,
            *_about_gain(entrants, shown),
            *_about_scenarios(entrants[0]),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class CommonGround:
    """Entrants reduced to what all of them scored.

    Attributes:
        entrants: in the order of the results; summaries and intervals are still those of all rows.
        same_pixels: all are scored on the same pixels with the same truth. Otherwise only poses compare; and where they
            see a vehicle in different numbers of views, rows are of vehicles.
        pixel_warnings: whose pixels are others, where each view has its counterpart.
        warnings: what else a reader must know.
    """

    entrants: tuple[EntrantResult, ...]
    same_pixels: bool
    pixel_warnings: tuple[str, ...]
    warnings: tuple[str, ...]


def common_ground(
    results: Sequence[Result], allow_different_contracts: bool = False, baselines: bool = False
) -> CommonGround:
    """The models of several evaluations on the samples that all of them scored; arguments as `compare_results`.

    Raises:
        ContractError: contracts differ and that was not allowed, or no sample is common.
        ValueError: an evaluation has no trained model.
    """
    warnings = _check_contracts(results, allow_different_contracts)
    entrants, about_views = _by_vehicle(_named(results, baselines))
    entrants, more = _on_common_rows(entrants)
    pixel_warnings = [] if about_views else about_pixels(entrants)
    return CommonGround(
        entrants=tuple(entrants),
        same_pixels=not (about_views or pixel_warnings),
        pixel_warnings=tuple(pixel_warnings),
        warnings=(*warnings, *about_views, *more),
    )


def _check_contracts(results: Sequence[Result], allowed: bool) -> list[str]:
    # a contract's own hash is over its name, too; results of earlier code have no other
    key = "samples_sha256" if all("samples_sha256" in r.contract for r in results) else "sha256"
    if len({r.contract[key] for r in results}) <= 1:
        return []
    listed = "; ".join(f"{r.folder}: {r.contract['name']} ({r.contract['sha256'][:12]})" for r in results)
    if not allowed:
        raise ContractError(
            f"the evaluations were made on different contracts, so their numbers do not compare: {listed}. Evaluate "
            "again with one frames_json, or pass --allow-different-contracts to compare what samples they share."
        )
    return [f"DIFFERENT CONTRACTS, compared on common samples only: {listed}"]


def _named(results: Sequence[Result], baselines: bool) -> list[EntrantResult]:
    """All models under names that tell them apart."""
    if any(not r.models for r in results):
        empty = next(r.folder for r in results if not r.models)
        raise ValueError(f"{empty}: holds no trained model's scores")
    labels = names_apart(without_common_end([r.folder.resolve() for r in results]))
    named = [
        replace(e, name=label if len(r.models) == 1 else f"{label}/{e.name}" if len(results) > 1 else e.name)
        for label, r in zip(labels, results, strict=True)
        for e in r.models
    ]
    others = [e for e in results[0].entrants if e.kind != "checkpoint"] if baselines else []
    return [*named, *others]


def _by_vehicle(entrants: Sequence[EntrantResult]) -> tuple[list[EntrantResult], list[str]]:
    """Rows of vehicles where runs see a vehicle in different numbers of views: no view has a counterpart there."""
    counts = {e.name: views_per_vehicle(e.rows) for e in entrants}
    if len(set(counts.values())) <= 1:
        return list(entrants), []
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    warning = (
        f"DIFFERENT VIEWS PER VEHICLE ({listed}): a vehicle's score is the mean of its views' scores. "
        + POSES_COMPARE
    )
    return [replace(e, rows=tuple(per_vehicle(e.rows))) for e in entrants], [warning]


def _on_common_rows(entrants: Sequence[EntrantResult]) -> tuple[list[EntrantResult], list[str]]:
    """Reduce all to the rows that all have."""
    views, samples = list(entrants[0].rows), list(entrants[0].samples)
    for other in entrants[1:]:
        views, _ = common(views, other.rows)
        samples, _ = common(samples, other.samples)
    if not views:
        raise ContractError("the evaluations have no sample in common")
    reduced, dropped = [], 0
    for entrant in entrants:
        rows, _ = common(entrant.rows, views)
        parts, _ = common(entrant.samples, samples)
        left_out = len(entrant.rows) - len(rows)
        dropped = max(dropped, left_out)
        entrant = replace(entrant, rows=tuple(rows), samples=tuple(parts))
        reduced.append(with_trajectories(entrant) if left_out else entrant)
    shared = set.intersection(*({t.identity for t in e.trajectories} for e in reduced))
    reduced = [
        replace(e, trajectories=tuple(t for t in e.trajectories if t.identity in shared)) for e in reduced
    ]
    warning = f"{dropped} views that not all runs scored were left out; {len(views)} remain"
    return reduced, [warning] if dropped else []


def _check_keys(keys: Sequence[str], table: ScoreTable) -> None:
    unknown = [k for k in keys if k not in table.scores]
    if unknown:
        raise ValueError(f"unknown summary keys {', '.join(unknown)}; see summary.json for those there are")


def _about_gain(entrants: Sequence[EntrantResult], shown: Sequence[str]) -> list[str]:
    if same_gain(entrants) or not any(key.startswith(GAINS) for key in shown):
        return []
    asked = ", ".join(e.name for e in entrants if e.alone)
    return [
        f"OTHER GAIN: {asked} against the answer for the reference alone (alone=true), the others against the "
        "reference's part of their answer: shown, but no winner"
    ]


def _about_scenarios(entrant: EntrantResult) -> list[str]:
    count = len({row.scenario for row in entrant.rows})
    if count >= CERTAIN_SCENARIOS:
        return []
    return [
        f"FEWER THAN {CERTAIN_SCENARIOS} SCENARIOS ({count}): nothing is called certain, whatever the intervals"
    ]


def _winners(
    entrants: Sequence[EntrantResult], tables: Mapping[str, ScoreTable], keys: Sequence[str], resamples: int
) -> dict[str, str]:
    """Per key the best run, if it is certainly better than every other; oracles do not compete."""
    fair = [e for e in entrants if e.kind != "oracle"]
    candidates: dict[str, list[str]] = {}
    for key in keys:
        known = {e.name: e.summary[key] for e in fair if math.isfinite(e.summary[key])}
        best = best_of(key, known)
        if best and len(known) > 1:
            candidates.setdefault(best, []).append(key)
    winners = {}
    for name, its_keys in candidates.items():
        pairs = [compare(tables[name], tables[e.name], its_keys, resamples) for e in fair if e.name != name]
        for key in its_keys:
            if all(survives_permutation(pair[key]) for pair in pairs if math.isfinite(pair[key].b)):
                winners[key] = name
    return winners


def weighted_scores(
    summaries: Mapping[str, Mapping[str, float]], weights: Mapping[str, float] = WEIGHTS
) -> dict[str, float]:
    """How far each run is behind the best of all, per score and on average: 0 is best at everything, 1 twice the error.

    The weighted mean over scores of ``log2(error / smallest error)``. The error is the score itself where lower is
    better (for the scale factor its excess over 1), and ``1 - score`` where higher is. Scores that some run lacks
    are left out for all.
    """
    totals, whole = dict.fromkeys(summaries, 0.0), 0.0
    for key, weight in weights.items():
        errors = {name: max(_error(key, s.get(key, math.nan)), FLOOR) for name, s in summaries.items()}
        if all(math.isfinite(e) for e in errors.values()):
            smallest = min(errors.values())
            whole += weight
            for name, error in errors.items():
                totals[name] += weight * math.log2(error / smallest)
    return {name: total / whole if whole else math.nan for name, total in totals.items()}


def _error(key: str, value: float) -> float:
    if better(key) == "higher":
        return 1.0 - value
    return value - 1.0 if key.startswith("scale/") else value


def stopping_advice(entrants: Sequence[EntrantResult], scores: Mapping[str, float]) -> str:
    """What each run's curve of the weighted score over steps says about training longer; "" without such a curve."""
    curves = {
        run: [(int(e.checkpoint["step"]), scores[e.name]) for e in of_run if e.checkpoint]
        for run, of_run in by_run(
            [e for e in entrants if math.isfinite(scores.get(e.name, math.nan))]
        ).items()
    }
    told = {run: advice for run, curve in curves.items() if (advice := _advice(curve))}
    if len(curves) == 1:
        return "".join(told.values())
    return " ".join(f"{run}: {advice}" for run, advice in told.items())


def _advice(curve: Sequence[tuple[int, float]]) -> str:
    """On checkpoints of one run as (step, score), by step; "" with fewer than three, or two of one step."""
    steps = [step for step, _ in curve]
    if len(curve) < 3 or len(set(steps)) < len(steps):
        return ""
    best = min(range(len(curve)), key=lambda i: curve[i][1])
    at, after = steps[best], len(curve) - 1 - best
    if after == 0:
        gained = curve[-2][1] - curve[-1][1]
        return (
            f"The last checkpoint (step {at}) is the best, {gained:.2f} octaves better than the one before: "
            "training longer may still help."
        )
    lost = curve[-1][1] - curve[best][1]
    verdict = "stop there" if after >= 2 else "one more checkpoint will tell"
    return (
        f"Best at step {at}; the {after} later checkpoint(s) up to step {steps[-1]} did not beat it and the last is "
        f"{lost:.2f} octaves worse: {verdict}, or lower the learning rate from step {at} on."
    )
