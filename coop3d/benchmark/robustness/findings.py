"""From rows to answers: how much worse, and does the confidence know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from coop3d.benchmark.robustness.catalogue import Case
from coop3d.benchmark.robustness.sight import BUCKETS, Pair, bucket
from coop3d.evaluation import (
    CERTAIN_SCENARIOS,
    Comparison,
    Interval,
    ViewRow,
    bootstrap,
    common,
    compare,
    score_table,
    verdict,
)
from coop3d.evaluation.confidence import ConfidenceScores, confidence_scores

ERRORS = (
    "pose/translation_m/median", "pose/rotation_deg/median", "pose/recall_2m_2deg", "range/abs_rel",
    "range/abs_rel_aligned", "scale/error/median", "mask/iou",
)  # fmt: skip
LEVEL, ORDER = "confidence/log", ("confidence/ause", "confidence/spearman")
KEYS = (*ERRORS, LEVEL, *ORDER)
LEAST_FALL = 0.01  # of the mean log: under one per cent is no warning


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one disturbance did to one model.

    Attributes:
        case: the disturbance.
        samples: scored, with a clean counterpart.
        left_out: reason to number of clean samples without one.
        scores: key of `KEYS` to the paired comparison (a: clean, b: disturbed), on views that both runs have.
        own: key to its interval over all disturbed views, those without a clean counterpart included.
        views_sorted: "range" and "pose": how well the mean confidence of a view sorts clean and disturbed views
            together by their error.
    """

    case: Case
    samples: int
    left_out: Mapping[str, int]
    scores: Mapping[str, Comparison]
    own: Mapping[str, Interval]
    views_sorted: Mapping[str, ConfidenceScores]

    @property
    def worse(self) -> tuple[str, ...]:
        """Errors that are certainly larger."""
        return tuple(key for key in ERRORS if verdict(key, self.scores[key]) == "worse")

    @property
    def knows(self) -> str:
        """Does the confidence know? ``yes`` and ``no`` are said only where some error certainly grew.

        ``yes``: the mean confidence certainly falls, by a per cent or more. ``no``: it does not.
        ``unharmed``: no error certainly grew.
        ``unknown``: there are too few scenarios for anything to be certain.
        """
        level = self.scores[LEVEL]
        if level.scenarios < CERTAIN_SCENARIOS:
            return "unknown"
        if not self.worse:
            return "unharmed"
        return "yes" if level.high < 0 and level.difference <= -LEAST_FALL else "no"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything an evaluation of robustness found.

    Attributes:
        clean: key to its interval, of the undisturbed run.
        cases: in the order asked for.
        skipped: name to why it could not be scored.
        sight: bucket of shared sight to key to interval, of the clean run; empty where it was not asked for.
        unsighted: other vehicles whose shared sight is unknown.
    """

    clean: Mapping[str, Interval]
    cases: tuple[Finding, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    sight: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    unsighted: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """Those with a number in the clean run."""
        return tuple(k for k in KEYS if math.isfinite(self.clean[k].value))


def intervals(rows: Sequence[ViewRow], resamples: int = 2000) -> dict[str, Interval]:
    """`KEYS` with their intervals over scenarios."""
    return bootstrap(score_table(rows), KEYS, resamples)


def finding(
    case: Case,
    clean: Sequence[ViewRow],
    disturbed: Sequence[ViewRow],
    left_out: Mapping[str, int],
    resamples: int = 2000,
) -> Finding:
    """Pair the views that both have, frame by frame, and compare.

    Raises:
        ValueError: no view has a counterpart.
    """
    a, b = common(clean, disturbed)
    if not a:
        raise ValueError(f"{case.name}: no view of the disturbed run has a clean counterpart")
    return Finding(
        case=case,
        samples=len({row.identity[:3] for row in b}),
        left_out=dict(left_out),
        scores=compare(score_table(a), score_table(b), KEYS, resamples),
        own=intervals(disturbed, resamples),
        views_sorted=views_sorted([*a, *b]),
    )


def views_sorted(rows: Sequence[ViewRow]) -> dict[str, ConfidenceScores]:
    """How well the mean confidence of a view sorts views by their error: of range (AbsRel), and of position."""
    errors = {"range": "abs_rel", "pose": "translation_error_m"}
    return {name: _sorted_by(rows, column) for name, column in errors.items()}


def _sorted_by(rows: Sequence[ViewRow], column: str) -> ConfidenceScores:
    pairs = np.array([(r.confidence_log, getattr(r, column)) for r in rows], np.float64).reshape(-1, 2)
    level, error = pairs[np.isfinite(pairs).all(axis=1)].T
    return confidence_scores(level, error)


def by_sight(
    clean: Sequence[ViewRow], shares: Mapping[Pair, float], resamples: int = 2000
) -> tuple[dict[str, dict[str, Interval]], int]:
    """Other vehicles' views by how much they share with the reference's, and how many of unknown share."""
    buckets: dict[str, list[ViewRow]] = {name: [] for name in BUCKETS}
    unknown = 0
    for row in clean:
        if row.is_reference:
            continue
        scenario, reference, frame, agent = row.identity[:4]
        name = bucket(shares.get((scenario, reference, frame, agent), math.nan))
        if name:
            buckets[name].append(row)
        else:
            unknown += 1
    return {name: intervals(rows, resamples) for name, rows in buckets.items() if rows}, unknown
