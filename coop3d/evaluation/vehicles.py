"""Rows of vehicles instead of views: what a panorama's row and a rig's four photographs can be compared by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop3d.evaluation.rows import RangeBand, ViewRow, distance_bucket

_MEANS = (
    "distance_m", "translation_error_m", "rotation_error_deg", "yaw_error_deg", "direction_error_deg",
    "scale_error", "abs_rel", "rmse_m", "mae_m", "delta_125", "abs_rel_aligned", "rmse_aligned_m",
    "mae_aligned_m", "delta_125_aligned", "ray_error_deg", "confidence_ause", "confidence_spearman", "confidence_log",
    "pose_support", "exact_range",
)  # fmt: skip
_SUMS = ("valid_pixels", "mask_tp", "mask_fp", "mask_fn", "mask_tn")


def views_per_vehicle(rows: Iterable[ViewRow]) -> int:
    """The largest number of views that any vehicle of a sample has; 1 for panoramas, 0 without rows."""
    return max((len(views) for views in _groups(rows)), default=0)


def per_vehicle(rows: Iterable[ViewRow]) -> list[ViewRow]:
    """One row per (scenario, frame, reference, agent), in order; ``view`` counts the vehicles of a sample.

    A vehicle's score is the mean of its views' scores, those that are NaN left out: the error to expect of one of
    them. No poses are averaged, so a view far off is not hidden by three good ones. Pixel counts are added, range
    bands weighted by pixels. The distance is the mean, too, and its bucket follows; the poses themselves are those
    of the first view.
    """
    found: list[ViewRow] = []
    counts: dict[tuple[str, ...], int] = {}
    for views in _groups(rows):
        sample = views[0].identity[:3]
        number = counts[sample] = counts.get(sample, -1) + 1
        found.append(replace(_joined(views), view=number))
    return found


def _groups(rows: Iterable[ViewRow]) -> list[list[ViewRow]]:
    """The views of every vehicle of every sample, in order of appearance."""
    groups: dict[tuple[str, ...], list[ViewRow]] = {}
    for row in rows:
        groups.setdefault(row.identity[:4], []).append(row)
    return list(groups.values())


def _joined(views: Sequence[ViewRow]) -> ViewRow:
    if len(views) == 1:
        return views[0]
    means: dict[str, Any] = {
        name: _mean(np.array([getattr(v, name) for v in views], np.float64)) for name in _MEANS
    }
    known = not views[0].is_reference and math.isfinite(means["distance_m"])
    return replace(
        views[0],
        **means,
        **{name: sum(getattr(v, name) for v in views) for name in _SUMS},
        distance_bucket=distance_bucket(means["distance_m"]) if known else "",
        bands=tuple(_band(bands) for bands in zip(*(v.bands for v in views), strict=True)),
    )


def _mean(values: NDArray[np.float64]) -> float:
    some = values[~np.isnan(values)]
    return float(some.mean()) if len(some) else math.nan


def _band(bands: Sequence[RangeBand]) -> RangeBand:
    """Pooled over the pixels of all views; squares are what pools of an RMS."""
    some = [b for b in bands if b.pixels]
    if not some:
        return RangeBand()
    table = np.array(some, np.float64)  # [views, columns], pixels first
    roots = [name.startswith("rmse") for name in RangeBand._fields]
    table[:, roots] **= 2
    pooled = np.average(table, axis=0, weights=table[:, 0])
    pooled[roots] **= 0.5
    return RangeBand(int(table[:, 0].sum()), *pooled[1:].tolist())
