"""Range, scale and mask scores of one view."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class RangeErrors(NamedTuple):
    """Scores of range along the ray against truth over one set of pixels."""

    abs_rel: float  # mean |r - r*| / r*
    rmse_m: float  # sqrt mean (r - r*)^2
    mae_m: float  # mean |r - r*|
    delta_125: float  # fraction with max(r / r*, r* / r) < 1.25


NO_RANGE = RangeErrors(math.nan, math.nan, math.nan, math.nan)


def range_errors(pred_m: Tensor, true_m: Tensor) -> RangeErrors:
    """Scores over N > 0 measured pixels: [N] and [N] metres, both finite and positive."""
    difference = (pred_m - true_m).abs()
    ratio = (pred_m / true_m).maximum(true_m / pred_m)
    values = (
        (difference / true_m).mean(),
        difference.square().mean().sqrt(),
        difference.mean(),
        (ratio < 1.25).double().mean(),
    )
    return RangeErrors(*(float(v) for v in values))


def median_ratio(pred_m: Tensor, true_m: Tensor) -> float:
    """Median of ``r / r*`` over N > 0 pixels (the lower of the two middle ones): 1 = right scale."""
    return float((pred_m / true_m).median())


def scale_error(ratio: float) -> float:
    """``exp |log ratio|``: 1 is right, 2 is twice too large or twice too small."""
    return math.exp(abs(math.log(ratio)))


class MaskCounts(NamedTuple):
    """Pixels where the truth is known; positive means non-ambiguous."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def iou(self) -> float:
        """Intersection over union of the non-ambiguous class."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Fraction of pixels called non-ambiguous that are."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Fraction of non-ambiguous pixels that were found."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def ambiguous_iou(self) -> float:
        """Intersection over union of the other class: 0 for a mask that calls everything non-ambiguous."""
        return _ratio(self.tn, self.tn + self.fp + self.fn)


def mask_counts(pred: Tensor, truth: Tensor, known: Tensor) -> MaskCounts:
    """Count over the pixels where ``known``: three bool tensors of one shape."""
    p, t = pred[known], truth[known]
    return MaskCounts(*(int(x.sum()) for x in (p & t, p & ~t, ~p & t, ~p & ~t)))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
