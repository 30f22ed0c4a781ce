"""Statistics over rows: a flat dictionary of named numbers, ready for a log, a JSON file or a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coop3d.evaluation.dense import MaskCounts
from coop3d.evaluation.rows import BUCKETS, ViewRow

RECALL_THRESHOLDS = ((1.0, 1.0), (2.0, 2.0), (5.0, 5.0))  # metres, degrees
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


def summarise(rows: Sequence[ViewRow]) -> dict[str, float]:
    """Summary of an evaluation; NaN where nothing could be scored.

    ``pose/...`` counts every view of a non-reference vehicle once: median, mean and 90 % quantile over all
    and per distance bucket, recall at joint (metres, degrees) thresholds. ``range/...`` are means over views
    of the per-view scores, ``scale/error`` has median, mean and 90 %. ``mask/...`` pools pixels of all
    views.
    """
    out: dict[str, float] = {"views": float(len(rows))}
    others = [r for r in rows if not r.is_reference]
    out["pose/count"] = float(len(others))
    for name, field in POSE_SCORES.items():
        out |= _statistics(f"pose/{name}", _column(others, field))
    out |= _recalls(others)
    for bucket in BUCKETS:
        inside = [r for r in others if r.distance_bucket == bucket]
        out[f"pose/{bucket}/count"] = float(len(inside))
        for name in ("translation_m", "rotation_deg"):
            out |= _statistics(f"pose/{bucket}/{name}", _column(inside, POSE_SCORES[name]))
    out |= _statistics("scale/error", _column(rows, "scale_error"))
    for field in RANGE_SCORES:
        out[f"range/{field}"] = _mean(_column(rows, field))
    return out | _mask(rows)


def _column(rows: Sequence[ViewRow], field: str) -> NDArray[np.float64]:
    """Scores that apply, i.e. without NaN. Infinite errors stay: they are errors."""
    values = np.array([getattr(r, field) for r in rows], dtype=np.float64)
    return values[~np.isnan(values)]


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _statistics(prefix: str, values: NDArray[np.float64]) -> dict[str, float]:
    some = len(values) > 0
    return {
        f"{prefix}/median": float(np.median(values)) if some else math.nan,
        f"{prefix}/mean": _mean(values),
        f"{prefix}/p90": float(np.quantile(values, 0.9)) if some else math.nan,
    }


def _recalls(others: Sequence[ViewRow]) -> dict[str, float]:
    """Fraction of metric views whose translation and rotation are both within the threshold."""
    pairs = np.array([(r.translation_error_m, r.rotation_error_deg) for r in others if r.distance_bucket])
    out = {}
    for metres, degrees in RECALL_THRESHOLDS:
        name = f"pose/recall_{metres:g}m_{degrees:g}deg"
        out[name] = float((pairs <= (metres, degrees)).all(axis=1).mean()) if len(pairs) else math.nan
    return out


def _mask(rows: Sequence[ViewRow]) -> dict[str, float]:
    counts = MaskCounts(*(sum(getattr(r, f"mask_{k}") for r in rows) for k in ("tp", "fp", "fn", "tn")))
    return {
        "mask/iou": counts.iou,
        "mask/precision": counts.precision,
        "mask/recall": counts.recall,
        "mask/ambiguous_iou": counts.ambiguous_iou,
    }
