"""Every number of a summary, as a statistic over rows that can be computed again on resampled scenarios.

The summary and its confidence intervals come from the same definitions, so they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop3d.evaluation.estimators import Quantile, Ratio, Score, Total
from coop3d.evaluation.pose import LEAST_DISPLACEMENT_M
from coop3d.evaluation.rows import (
    BANDS,
    BUCKETS,
    PointScores,
    RegistrationScores,
    SampleRow,
    TrajectoryRow,
    ViewRow,
)

RECALL_THRESHOLDS = ((1.0, 1.0), (2.0, 2.0), (5.0, 5.0))  # metres, degrees
SIGN_FLIP_MIN_M = 5.0  # nearer, a small error of position turns the direction far
EXACT_POSE = (1e-3, 1e-2)  # metres, degrees: no photograph tells that
POSE_SCORES = {
    "translation_m": "translation_error_m",
    "rotation_deg": "rotation_error_deg",
    "yaw_deg": "yaw_error_deg",
    "direction_deg": "direction_error_deg",
}
RANGE_SCORES = (
    "abs_rel", "rmse_m", "mae_m", "delta_125",
    "abs_rel_aligned", "rmse_aligned_m", "mae_aligned_m", "delta_125_aligned",
)  # fmt: skip
MEASURED_POINTS = PointScores._fields[2:]
MASK_RATIOS = {
    "iou": ("tp", ("tp", "fp", "fn")),
    "precision": ("tp", ("tp", "fp")),
    "recall": ("tp", ("tp", "fn")),
    "ambiguous_iou": ("tn", ("tn", "fp", "fn")),
}
TRAJECTORY_SCORES = ("ate_m", "ate_aligned_m", "rpe_m", "rpe_deg")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreTable:
    """Named statistics over rows that belong to scenarios."""

    scenarios: tuple[str, ...]  # sorted; scores count them from 0 in this order
    scores: dict[str, Score]
    identities: frozenset[tuple[str, ...]]  # of the rows, to see whether two runs scored the same samples

    def summary(self) -> dict[str, float]:
        """Name to value."""
        return {name: score.value() for name, score in self.scores.items()}


class _Columns:
    """Columns of rows as float64 arrays by path ("points/bev_iou"), cut out once, and their scenarios."""

    def __init__(self, rows: Sequence[Any], codes: Mapping[str, int]) -> None:
        self.rows, self.codes = rows, codes
        self.scenario = np.array([codes[r.scenario] for r in rows], dtype=np.int64)
        self.cache: dict[str, Floats] = {}

    def __getitem__(self, path: str) -> Floats:
        if path not in self.cache:
            self.cache[path] = np.array([_follow(r, path) for r in self.rows], dtype=np.float64)
        return self.cache[path]

    def where(self, keep: Sequence[bool]) -> _Columns:
        """The rows for which ``keep`` is true."""
        return _Columns([r for r, kept in zip(self.rows, keep, strict=True) if kept], self.codes)

    def mean(self, values: Floats, weights: Floats | None = None) -> Ratio:
        """Weighted mean of what is not NaN (infinite errors stay: they are errors)."""
        w = np.ones(len(values)) if weights is None else weights
        some = ~np.isnan(values) & (w > 0)
        return Ratio(values[some] * w[some], w[some], self.scenario[some])

    def spread(self, prefix: str, path: str) -> Iterator[tuple[str, Score]]:
        """Median, mean and 90 % quantile."""
        values = self[path]
        some = ~np.isnan(values)
        yield f"{prefix}/median", Quantile(values[some], self.scenario[some], 0.5)
        yield f"{prefix}/mean", self.mean(values)
        yield f"{prefix}/p90", Quantile(values[some], self.scenario[some], 0.9)


def _follow(row: Any, path: str) -> Any:
    value = row
    for part in path.split("/"):
        value = value[BANDS.index(part)] if part in BANDS else getattr(value, part)
    return value


def score_table(
    rows: Sequence[ViewRow], samples: Sequence[SampleRow] = (), trajectories: Sequence[TrajectoryRow] = ()
) -> ScoreTable:
    """All statistics of an evaluation, see docs/evaluation.md; without rows of a kind its numbers are NaN."""
    every: list[ViewRow | SampleRow | TrajectoryRow] = [*rows, *samples, *trajectories]
    scenarios = tuple(sorted({r.scenario for r in every}))
    codes = {name: k for k, name in enumerate(scenarios)}
    views = _Columns(rows, codes)
    scores: dict[str, Score] = {"views": Total(np.ones(len(rows)), views.scenario)}
    # Every rotation can be scored, but those of photographs whose vehicle's pose stands in another row.
    scores |= _pose_scores(
        views.where([not r.is_reference and not math.isnan(r.rotation_error_deg) for r in rows])
    )
    scores |= _view_scores(views)
    scores |= _sample_scores(_Columns(samples, codes))
    scores |= _trajectory_scores(_Columns(trajectories, codes))
    return ScoreTable(scenarios, scores, frozenset(r.identity for r in every))


def _pose_scores(others: _Columns) -> Iterator[tuple[str, Score]]:
    yield "pose/count", Total(np.ones(len(others.rows)), others.scenario)
    yield from _pose_group("pose", others)
    exact = (others["translation_error_m"] < EXACT_POSE[0]) & (others["rotation_error_deg"] < EXACT_POSE[1])
    yield "suspect/exact_pose", others.mean(_if_known(exact, others["translation_error_m"]))
    for bucket in BUCKETS:
        inside = others.where([r.distance_bucket == bucket for r in others.rows])
        yield f"pose/{bucket}/count", Total(np.ones(len(inside.rows)), inside.scenario)
        yield from _pose_group(f"pose/{bucket}", inside)


def _pose_group(prefix: str, views: _Columns) -> Iterator[tuple[str, Score]]:
    for name, field in POSE_SCORES.items():
        yield from views.spread(f"{prefix}/{name}", field)
    translation, rotation = views["translation_error_m"], views["rotation_error_deg"]
    for metres, degrees in RECALL_THRESHOLDS:
        within = (translation <= metres) & (rotation <= degrees)
        yield f"{prefix}/recall_{metres:g}m_{degrees:g}deg", views.mean(_if_known(within, translation))
    sided = (views["distance_m"] >= SIGN_FLIP_MIN_M) & ~_stands_still(views)
    far = np.where(sided, views["direction_error_deg"], math.nan)
    yield f"{prefix}/sign_flip_rate", views.mean(_if_known(far > 90.0, far))
    yield f"{prefix}/sign_flip_pairs", Total((~np.isnan(far)).astype(np.float64), views.scenario)


def _stands_still(views: _Columns) -> NDArray[np.bool_]:
    """Whether a view is said to be where the reference is: on neither the right side nor the wrong one."""
    x, y, z = (views[f"pose_pred/{axis}"] for axis in "xyz")
    return np.sqrt(x**2 + y**2 + z**2) < LEAST_DISPLACEMENT_M


def _if_known(answer: NDArray[np.bool_], known: Floats) -> Floats:
    """1, 0, or NaN where ``known`` is NaN."""
    return np.where(np.isnan(known), math.nan, answer)


def _view_scores(views: _Columns) -> Iterator[tuple[str, Score]]:
    yield from views.spread("scale/error", "scale_error")
    for field in RANGE_SCORES:
        yield f"range/{field}", views.mean(views[field])
    groups = {band: (band,) for band in BANDS} | {"near": BANDS[:2], "far": BANDS[2:]}
    for group, bands in groups.items():
        yield from _band_scores(f"range/{group}", views, bands)
    for name, (hit, parts) in MASK_RATIOS.items():
        whole = np.sum([views[f"mask_{p}"] for p in parts], axis=0)
        yield f"mask/{name}", Ratio(views[f"mask_{hit}"], whole, views.scenario)
    yield "rays/angle_deg", views.mean(views["ray_error_deg"])
    yield "confidence/ause", views.mean(views["confidence_ause"])
    yield "confidence/spearman", views.mean(views["confidence_spearman"])
    yield "confidence/log", views.mean(views["confidence_log"])
    yield "suspect/exact_range", views.mean(views["exact_range"])


def _band_scores(prefix: str, views: _Columns, bands: Sequence[str]) -> Iterator[tuple[str, Score]]:
    """Pooled over pixels: a view with three pixels at 80 m must not weigh as much as one with three thousand."""
    pixels = np.concatenate([views[f"bands/{b}/pixels"] for b in bands])
    scenario = np.tile(views.scenario, len(bands))
    yield f"{prefix}/pixels", Total(pixels, scenario)
    some = pixels > 0
    for field in RANGE_SCORES:
        values = np.concatenate([views[f"bands/{b}/{field}"] for b in bands])[some]
        root = field.startswith("rmse")
        sums = (values**2 if root else values) * pixels[some]
        yield f"{prefix}/{field}", Ratio(sums, pixels[some], scenario[some], root=root)


def _sample_scores(samples: _Columns) -> Iterator[tuple[str, Score]]:
    yield from samples.spread("scale/pooled", "scale_error")
    pairs = samples["pairs"]
    yield "pose/convention/pairs", Total(pairs, samples.scenario)
    for degrees in (5, 10, 30):
        auc = samples[f"convention_auc_{degrees}"]
        yield f"pose/convention/auc_{degrees}", samples.mean(auc, pairs)
    for kind in ("", "_filtered"):
        for name in MEASURED_POINTS:
            fused, alone = samples[f"points{kind}/{name}"], samples[f"points{kind}_alone/{name}"]
            yield f"points{kind}/{name}", samples.mean(fused)
            yield f"gain{kind}/{name}", samples.mean(fused - alone)
        empty = (samples[f"points{kind}/predicted"] == 0) & (samples[f"points{kind}/true"] > 0)
        yield f"points{kind}/empty_predictions", Total(empty.astype(np.float64), samples.scenario)
    defined = ~np.isnan(samples["registration/maa"])
    yield "registration/samples", Total(defined.astype(np.float64), samples.scenario)
    for name in RegistrationScores._fields[1:]:
        yield f"registration/{name}", samples.mean(samples[f"registration/{name}"])


def _trajectory_scores(trajectories: _Columns) -> Iterator[tuple[str, Score]]:
    yield "trajectory/count", Total(np.ones(len(trajectories.rows)), trajectories.scenario)
    for name in TRAJECTORY_SCORES:
        yield from trajectories.spread(f"trajectory/{name}", name)
