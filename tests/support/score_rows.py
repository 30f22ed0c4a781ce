"""Rows of an evaluation with plausible scores; a test changes what it is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coop3d.evaluation import BANDS, SampleRow, ViewRow, score_batch
from coop3d.evaluation.rows import RangeBand
from coop3d.types import FactoredPrediction, SampleKey, ViewTargets


def scored(prediction: FactoredPrediction, targets: ViewTargets) -> tuple[list[ViewRow], list[SampleRow]]:
    """Rows of views and of samples, one vehicle per view."""
    B, V = targets.range_m.shape[:2]
    keys = [[SampleKey("town", f"car{v}", f"{b:06d}") for v in range(V)] for b in range(B)]
    return score_batch(prediction, targets, keys)


def view_row(**changes: Any) -> ViewRow:
    """A view of another vehicle, 20 m away."""
    bands = (RangeBand(10, *[0.1] * 8), RangeBand(20, *[0.2] * 8)) + (RangeBand(),) * (len(BANDS) - 2)
    row = ViewRow(
        scenario="town", agent="car1", frame="000000", reference_agent="car0", view=1, is_reference=False,
        distance_m=20.0, distance_bucket="15-30m", translation_error_m=1.0, rotation_error_deg=0.5,
        yaw_error_deg=0.4, direction_error_deg=3.0, valid_pixels=30, scale_error=1.1, abs_rel=0.1, rmse_m=1.0,
        mae_m=0.5, delta_125=0.9, abs_rel_aligned=0.08, rmse_aligned_m=0.9, mae_aligned_m=0.4,
        delta_125_aligned=0.95, mask_tp=10, mask_fp=2, mask_fn=1, mask_tn=7, ray_error_deg=0.0,
        confidence_ause=0.5, confidence_spearman=0.5, exact_range=0.0, bands=bands,
    )  # fmt: skip
    return replace(row, **changes)


def sample_row(**changes: Any) -> SampleRow:
    """A metric sample of two vehicles without clouds."""
    row = SampleRow(
        scenario="town", frame="000000", reference_agent="car0", vehicles=2, is_metric=True, scale_error=1.1,
        pairs=1, convention_auc_5=0.2, convention_auc_10=0.4, convention_auc_30=0.6,
    )  # fmt: skip
    return replace(row, **changes)
