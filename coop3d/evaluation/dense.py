"""Range, scale, mask and ray scores, all views of a batch at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from coop3d.evaluation.rows import BANDS, RANGE_EDGES_M, RangeBand
from coop3d.types import FactoredPrediction, ViewTargets

EXACT = 1e-5  # relative; float32 arithmetic gives 1e-7, a network nowhere near


class RangeErrors(NamedTuple):
    """Scores of range along the ray against truth over one set of pixels."""

    abs_rel: float  # mean |r - r*| / r*
    rmse_m: float  # sqrt mean (r - r*)^2
    mae_m: float  # mean |r - r*|
    delta_125: float  # fraction with max(r / r*, r* / r) < 1.25


NO_RANGE = RangeErrors(math.nan, math.nan, math.nan, math.nan)


def range_sums(pred_m: Tensor, true_m: Tensor, group: Tensor, groups: int) -> Tensor:
    """What the scores of several groups of pixels are made of; sums of groups may be added.

    Args:
        pred_m, true_m: [N] metres, finite and positive.
        group: [N] int64 in 0..groups-1.
        groups: how many.

    Returns:
        [groups, 6] float64: pixels and sums of relative, squared and absolute error, of those within a factor
        of 1.25, and of those that are exact.
    """
    difference = (pred_m - true_m).abs()
    relative = difference / true_m
    within = (pred_m / true_m).maximum(true_m / pred_m) < 1.25
    columns = (relative, difference.square(), difference, within, relative < EXACT)
    counts = torch.bincount(group, minlength=groups).double()
    return torch.stack([counts, *(torch.bincount(group, c.double(), groups) for c in columns)], dim=-1)


def _errors(sums: list[float]) -> RangeErrors:
    n, relative, squared, absolute, within = sums[:5]
    return RangeErrors(relative / n, math.sqrt(squared / n), absolute / n, within / n) if n else NO_RANGE


def scale_error(ratio: float) -> float:
    """``exp |log ratio|``: 1 is right, 2 is twice too large or twice too small."""
    return math.exp(abs(math.log(ratio)))


class RangeScores(NamedTuple):
    """Of one view."""

    pixels: int
    ratio: float  # median of r / r*, NaN without valid pixels
    raw: RangeErrors
    aligned: RangeErrors  # after division by the ratio
    exact: float  # fraction of pixels off by less than `EXACT`
    bands: tuple[RangeBand, ...]


class RangeComparison(NamedTuple):
    """Range of a batch against its truth."""

    views: list[list[RangeScores]]  # B x V; raw scores are in the truth's unit, metric or not
    pooled_ratio: list[float]  # B: median of r / r* over the valid pixels of all views
    relative_aligned: Tensor  # [N] |r / ratio - r*| / r*, valid pixels of all views in order


def compare_range(prediction: FactoredPrediction, targets: ViewTargets) -> RangeComparison:
    """Score predicted range at valid pixels, per view and band of true range.

    Bands are cut at `RANGE_EDGES_M` metres of true range, so they mean nothing where the truth is not metric.
    """
    B, V = targets.range_m.shape[:2]
    valid = targets.valid.flatten(2)
    every_pred, every_true = prediction.range_m.flatten(2), targets.range_m.flatten(2)
    ratio = torch.where(valid, every_pred / every_true, torch.nan)  # [B, V, P]
    view_ratio, pooled = ratio.nanmedian(dim=-1).values, ratio.flatten(1).nanmedian(dim=-1).values

    pixel = valid.flatten().nonzero().squeeze(1)  # found once: boolean indexing would search anew each time
    pred, true = every_pred.flatten()[pixel], every_true.flatten()[pixel]  # [N], view after view
    view = pixel // valid.shape[-1]
    group = view * len(BANDS)
    for edge in RANGE_EDGES_M[1:-1]:
        group += true >= edge
    aligned = pred / view_ratio.flatten()[view]
    sums = torch.stack([range_sums(p, true, group, B * V * len(BANDS)) for p in (pred, aligned)])
    per_view = sums.unflatten(1, (B, V, len(BANDS))).movedim(0, 3).tolist()  # B, V, band, raw or aligned, 6
    ratios = view_ratio.tolist()
    return RangeComparison(
        views=[[_view_scores(per_view[b][v], ratios[b][v]) for v in range(V)] for b in range(B)],
        pooled_ratio=pooled.tolist(),
        relative_aligned=(aligned - true).abs() / true,
    )


def _view_scores(bands: list[list[list[float]]], ratio: float) -> RangeScores:
    raw, aligned = (
        [sum(column) for column in zip(*(band[k] for band in bands), strict=True)] for k in (0, 1)
    )
    return RangeScores(
        pixels=int(raw[0]),
        ratio=ratio,
        raw=_errors(raw),
        aligned=_errors(aligned),
        exact=raw[5] / raw[0] if raw[0] else math.nan,
        bands=tuple(RangeBand(int(r[0]), *_errors(r), *_errors(a)) for r, a in bands),
    )


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


def mask_table(pred: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """[..., P] bool, three times, to [..., 4] counts in the order of `MaskCounts`."""
    cases = (pred & truth, pred & ~truth, ~pred & truth, ~(pred | truth))
    return torch.stack([(case & known).sum(dim=-1) for case in cases], dim=-1)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def ray_angles_deg(prediction: FactoredPrediction, targets: ViewTargets) -> Tensor:
    """[B, V] degrees: mean angle between predicted and true rays of covered pixels, NaN where there are none.

    The network's own rays are scored where it predicts any (``predicted_rays``), else the rays that its points
    are composed with. Of two unit vectors the angle is ``2 asin(|a - b| / 2)``, exact for tiny angles too.
    """
    rays = prediction.rays if prediction.predicted_rays is None else prediction.predicted_rays
    half_chord = (rays - targets.rays).norm(dim=-1).div(2).clamp_max(1.0)
    angle = torch.where(targets.covered, 2 * torch.rad2deg(torch.asin(half_chord)), 0.0)
    return angle.sum(dim=(2, 3), dtype=torch.float64) / targets.covered.sum(dim=(2, 3))
