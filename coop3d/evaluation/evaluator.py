"""Score predictions batch by batch, keep one row per view, summarise at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from coop3d.evaluation.dense import NO_RANGE, mask_counts, median_ratio, range_errors, scale_error
from coop3d.evaluation.pose import PoseErrors, pose_errors
from coop3d.evaluation.report import write_per_frame_csv, write_summary_json
from coop3d.evaluation.rows import ViewRow, distance_bucket
from coop3d.evaluation.summary import summarise
from coop3d.types import FactoredPrediction, SampleKey, ViewTargets


def evaluate_batch(
    prediction: FactoredPrediction, targets: ViewTargets, keys: Sequence[Sequence[SampleKey]]
) -> list[ViewRow]:
    """One row per view of every sample of a batch, in order.

    Args:
        prediction: what the model returned for the batch's `ViewInputs`.
        targets: the truth, [B, V, ...].
        keys: B x V identities.
    """
    B, V = targets.range_m.shape[:2]
    if prediction.distance.shape != targets.range_m.shape or [len(k) for k in keys] != [V] * B:
        raise ValueError(
            f"prediction is {tuple(prediction.distance.shape)}, targets are {tuple(targets.range_m.shape)}, "
            f"keys are {[len(k) for k in keys]} per sample; expected B samples with V views each"
        )
    prediction, targets = prediction.detach(), targets.detach()
    errors = pose_errors(prediction.T_ref_view, targets.T_ref_view)
    pred_range, pred_mask = prediction.range_m, prediction.non_ambiguous
    _require_finite(prediction, keys)
    return [
        _row(b, v, keys[b], targets, errors, pred_range[b, v], pred_mask[b, v])
        for b in range(B)
        for v in range(V)
    ]


def _require_finite(prediction: FactoredPrediction, keys: Sequence[Sequence[SampleKey]]) -> None:
    """A score of NaN would drop out of every average, so a model could not be blamed for it: stop instead."""
    for b, sample in enumerate(keys):
        T, range_m = prediction.T_ref_view[b], prediction.range_m[b]
        if not (T.isfinite().all() and range_m.isfinite().all() and (range_m > 0).all()):
            raise ValueError(
                f"{sample[0]} (reference): the predicted pose or range is not finite and positive; "
                "scores would silently leave this sample out. Check the checkpoint and its precision."
            )


def _row(
    b: int,
    v: int,
    keys: Sequence[SampleKey],
    targets: ViewTargets,
    errors: PoseErrors,
    pred_range: Tensor,
    pred_mask: Tensor,
) -> ViewRow:
    metric = bool(targets.is_metric[b])
    counts = mask_counts(pred_mask, targets.non_ambiguous[b, v], targets.mask_known[b, v])
    return ViewRow(
        scenario=keys[v].scenario,
        agent=keys[v].agent,
        frame=keys[v].frame,
        reference_agent=keys[0].agent,
        view=v,
        **_pose_columns(b, v, targets, errors, metric),
        **_range_columns(pred_range, targets.range_m[b, v], targets.valid[b, v], metric),
        mask_tp=counts.tp,
        mask_fp=counts.fp,
        mask_fn=counts.fn,
        mask_tn=counts.tn,
    )


def _pose_columns(b: int, v: int, targets: ViewTargets, errors: PoseErrors, metric: bool) -> dict[str, Any]:
    is_reference = bool(targets.vehicle[v] == targets.vehicle[0])
    e = [math.nan if is_reference else float(x[b, v]) for x in errors]
    translation, rotation, yaw, direction, distance = e
    return {
        "is_reference": is_reference,
        "distance_m": distance if metric else math.nan,
        "distance_bucket": distance_bucket(distance) if metric and not is_reference else "",
        "translation_error_m": translation if metric else math.nan,
        "rotation_error_deg": rotation,
        "yaw_error_deg": yaw,
        "direction_error_deg": direction,
    }


def _range_columns(pred_m: Tensor, true_m: Tensor, valid: Tensor, metric: bool) -> dict[str, Any]:
    raw, aligned, scale = NO_RANGE, NO_RANGE, math.nan
    pred_m, true_m = pred_m[valid].double(), true_m[valid].double()
    if len(pred_m):
        ratio = median_ratio(pred_m, true_m)
        aligned = range_errors(pred_m / ratio, true_m)
        if metric:
            raw, scale = range_errors(pred_m, true_m), scale_error(ratio)
    return {
        "valid_pixels": len(pred_m),
        "scale_error": scale,
        "abs_rel": raw.abs_rel,
        "rmse_m": raw.rmse_m,
        "mae_m": raw.mae_m,
        "delta_125": raw.delta_125,
        "abs_rel_aligned": aligned.abs_rel,
        "rmse_aligned_m": aligned.rmse_m,
        "mae_aligned_m": aligned.mae_m,
        "delta_125_aligned": aligned.delta_125,
    }


class Evaluator:
    """Accumulates rows over batches (and, through :meth:`extend`, over processes)."""

    def __init__(self) -> None:
        self.rows: list[ViewRow] = []

    def update(
        self, prediction: FactoredPrediction, targets: ViewTargets, keys: Sequence[Sequence[SampleKey]]
    ) -> None:
        """Score one batch; no dense tensor is kept."""
        self.rows.extend(evaluate_batch(prediction, targets, keys))

    def extend(self, rows: Iterable[ViewRow]) -> None:
        """Add rows scored elsewhere, for instance by another process."""
        self.rows.extend(rows)

    def summary(self) -> dict[str, float]:
        """Flat named statistics, see :func:`coop3d.evaluation.summarise`."""
        return summarise(self.rows)

    def write(self, folder: Path | str) -> dict[str, float]:
        """Write ``per_frame.csv`` and ``summary.json`` into ``folder``, atomically; return the summary."""
        folder, summary = Path(folder), self.summary()
        folder.mkdir(parents=True, exist_ok=True)
        write_per_frame_csv(self.rows, folder / "per_frame.csv")
        write_summary_json(summary, folder / "summary.json")
        return summary
