"""One row per view: what is kept of an evaluation once the dense tensors are gone."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise

DISTANCE_EDGES_M = (0.0, 15.0, 30.0, 60.0, 100.0, math.inf)
BUCKETS = tuple(
    f"{low:.0f}+m" if math.isinf(high) else f"{low:.0f}-{high:.0f}m"
    for low, high in pairwise(DISTANCE_EDGES_M)
)


def distance_bucket(distance_m: float) -> str:
    """Name of the half-open bucket [low, high) that holds a true distance: "0-15m" .. "100+m"."""
    for name, high in zip(BUCKETS, DISTANCE_EDGES_M[1:], strict=True):
        if distance_m < high:
            return name
    raise ValueError(f"distance {distance_m} m is in no bucket; expected a finite distance")


@dataclass(frozen=True, kw_only=True)
class ViewRow:
    """Scores of one view of one sample. NaN where a score does not apply.

    Poses are scored for views of other vehicles than the reference's only: the reference's own pose is the
    identity by definition, and averaging its zero error in would halve the error of a pair.
    Metric scores are NaN for samples without metric scale.
    """

    scenario: str
    agent: str
    frame: str
    reference_agent: str
    view: int
    is_reference: bool  # the view belongs to the reference vehicle
    # pose of the view in the reference frame, unaligned
    distance_m: float  # true distance to the reference
    distance_bucket: str  # "" for the reference
    translation_error_m: float
    rotation_error_deg: float
    yaw_error_deg: float
    direction_error_deg: float  # 0..180: a flipped translation scores 180
    # range along the ray on valid pixels
    valid_pixels: int
    scale_error: float  # exp |log median(r / r*)| >= 1
    abs_rel: float
    rmse_m: float
    mae_m: float
    delta_125: float
    abs_rel_aligned: float
    rmse_aligned_m: float
    mae_aligned_m: float
    delta_125_aligned: float
    # non-ambiguous mask: pixel counts where the truth is known
    mask_tp: int
    mask_fp: int
    mask_fn: int
    mask_tn: int


ROW_FIELDS = tuple(f.name for f in fields(ViewRow))
