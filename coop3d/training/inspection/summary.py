"""The numbers of one inspected sample: a table for its page, and ``*_summary.json`` for programs and the gallery."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coop3d.evaluation import MaskCounts, ViewRow, evaluate_batch, per_vehicle
from coop3d.files import finite_json, write_json
from coop3d.training.inspection.sample import Inspection
from coop3d.types import FactoredPrediction
from coop3d.visualization.point_sources import true_scale

_COLUMNS = {
    "distance [m]": "distance_m",
    "translation error [m]": "translation_error_m",
    "rotation error [deg]": "rotation_error_deg",
    "scale error (1 = right)": "scale_error",
    "AbsRel": "abs_rel",
    "range RMSE [m]": "rmse_m",
}
_SCORES = {  # key of the summary -> field of a row
    "pose_translation_error_m": "translation_error_m",
    "pose_rotation_error_deg": "rotation_error_deg",
    "pose_yaw_error_deg": "yaw_error_deg",
    "depth_abs_rel": "abs_rel",
    "depth_rmse_m": "rmse_m",
    "depth_mae_m": "mae_m",
    "depth_delta_125": "delta_125",
}


def score_rows(inspection: Inspection) -> list[ViewRow]:
    """Scores of the points that are shown, one row per view; none without a prediction, truth, or finite numbers.

    Where the points have true depth, it is known at some pixels only; scores use the pixels where it is.
    """
    shown, targets = inspection.shown, inspection.targets
    if shown is None or targets is None or not _is_finite(shown, inspection):
        return []
    if inspection.sources.depth != "pred":
        filled = torch.where(
            shown.distance.isfinite(), shown.distance, 1.0
        )  # only at pixels that are not scored
        shown = FactoredPrediction(**{**vars(shown), "distance": filled})
    return evaluate_batch(shown, targets, inspection.keys)


def _is_finite(shown: FactoredPrediction, inspection: Inspection) -> bool:
    return bool(shown.T_ref_view.isfinite().all()) and (
        inspection.sources.depth != "pred"
        or bool(shown.range_m.isfinite().all() and (shown.range_m > 0).all())
    )


def page_numbers(inspection: Inspection) -> dict[str, object]:
    """The table of the page: one column per score with one row per vehicle, then single numbers."""
    rows = per_vehicle(score_rows(inspection))
    names = [f"{r.agent} (reference)" if r.is_reference else r.agent for r in rows]
    table: dict[str, object] = {}
    if rows:
        for title, name in _COLUMNS.items():
            table[title] = {n: getattr(r, name) for n, r in zip(names, rows, strict=True)}
        table["mask IoU"] = {n: _mask(r).iou for n, r in zip(names, rows, strict=True)}
    if inspection.predicted is not None:
        table["predicted metric scale [m per unit]"] = float(inspection.predicted.scale[0])
    if inspection.shown is not None and inspection.sources != type(inspection.sources)():
        s = inspection.sources
        table["points made from"] = f"pose {s.pose}, depth {s.depth}, scale {s.scale}"
    return table


def sample_summary(inspection: Inspection, **facts: Any) -> dict[str, Any]:
    """Everything measurable of one sample, as JSON types; null where it does not apply or is not finite.

    Args:
        inspection: to measure.
        facts: put first, e.g. ``split="test", index=0``.
    """
    rows = score_rows(inspection)
    keys, predicted = inspection.keys[0], inspection.predicted
    summary: dict[str, Any] = {
        **facts,
        "scenario": keys[0].scenario,
        "frame": keys[0].frame,
        "reference": keys[0].agent,
        "vehicles": len({k.agent for k in keys}),
        "point_pose_source": inspection.sources.pose if inspection.shown is not None else "gt",
        "point_depth_source": inspection.sources.depth if inspection.shown is not None else "gt",
        "point_scale_source": inspection.sources.scale if inspection.shown is not None else "gt",
        "pred_scale": None if predicted is None else float(predicted.scale[0]),
        "gt_scale": None,
        "scale_ratio": None,
    }
    if predicted is not None and inspection.targets is not None:
        summary["gt_scale"] = float(true_scale(predicted, inspection.targets)[0])
        summary["scale_ratio"] = summary["pred_scale"] / summary["gt_scale"]
    for key, name in _SCORES.items():
        summary[key] = _mean([getattr(r, name) for r in rows])  # the reference's pose errors are NaN
    counts = [sum(c) for c in zip(*(_counts(r) for r in rows), strict=True)]
    summary["mask_iou"] = MaskCounts(*counts).iou if counts else None
    summary["views"] = [_view(inspection, v, rows) for v in range(len(keys))]
    ready: dict[str, Any] = finite_json(summary)
    return ready


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write what `sample_summary` returned, atomically."""
    write_json(path, summary, indent=2)


def _view(inspection: Inspection, v: int, rows: list[ViewRow]) -> dict[str, Any]:
    shown, targets = inspection.shown, inspection.targets
    key = inspection.keys[0][v]
    out: dict[str, Any] = {"agent": key.agent, "frame": key.frame}
    if shown is not None:
        out["pred_translation_m"] = shown.T_ref_view[0, v, :3, 3].tolist()
        out["depth_pred_m"] = _statistics(shown.range_m[0, v][shown.non_ambiguous[0, v]])
        out["confidence"] = _statistics(shown.confidence[0, v])
        out["mask_pred_share"] = float(shown.non_ambiguous[0, v].float().mean())
    if targets is not None:
        out["gt_translation_m"] = targets.T_ref_view[0, v, :3, 3].tolist()
        out["depth_gt_m"] = _statistics(targets.range_m[0, v][targets.valid[0, v]])
        out["covered_share"] = float(targets.covered[0, v].float().mean())
        out["valid_share"] = float(targets.valid[0, v].float().mean())
    if rows:
        out |= {key: getattr(rows[v], name) for key, name in _SCORES.items()}
        out |= {"distance_m": rows[v].distance_m, "mask_iou": _mask(rows[v]).iou}
    return out


def _statistics(values: Tensor) -> dict[str, float | int | None]:
    """Count and spread of the finite values."""
    known = values[values.isfinite()].double().numpy()
    if not len(known):
        return {"count": 0, "min": None, "median": None, "mean": None, "p95": None, "max": None}
    low, middle, p95, high = np.quantile(known, [0.0, 0.5, 0.95, 1.0]).tolist()
    return {
        "count": len(known),
        "min": low,
        "median": middle,
        "mean": float(known.mean()),
        "p95": p95,
        "max": high,
    }


def _counts(row: ViewRow) -> tuple[int, int, int, int]:
    return row.mask_tp, row.mask_fp, row.mask_fn, row.mask_tn


def _mask(row: ViewRow) -> MaskCounts:
    return MaskCounts(*_counts(row))


def _mean(values: list[float]) -> float | None:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else None
