"""Fused clouds in the reference frame: Chamfer, F-score and bird's-eye IoU, in bounded time.

F-score, precision and recall after Knapitsch et al., "Tanks and Temples", 2017. Nothing is aligned.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from coop3d.evaluation.rows import NO_POINTS, PointScores
from coop3d.types import FactoredPrediction, ViewTargets

MAX_PIXELS = 1 << 18  # of a sample; larger images are thinned evenly to at most these
VOXEL_M = 0.1  # one point is kept per voxel: half of the tightest threshold
QUERIES = 8_000  # points of a cloud whose nearest neighbour is looked up, evenly spread over its voxels
TRUNCATE_M = 5.0  # farther is as bad: a point in the sky must not decide a mean
THRESHOLDS_M = (0.2, 0.5, 1.0)
HEIGHT_M = (-1.0, 4.2)  # above the road under the reference: road, vehicles, walls; no tree tops
SENSOR_HEIGHT_M = 1.9  # of the reference's panorama centre (OPV2V's LiDAR) above the road
BEV_CELL_M, BEV_RADIUS_M = 0.5, 60.0
BEV_CELLS = round(2 * BEV_RADIUS_M / BEV_CELL_M)

Points = NDArray[np.float32]
RecordT = TypeVar("RecordT", FactoredPrediction, ViewTargets)


class CloudScores(NamedTuple):
    """Of all points, and of those between `HEIGHT_M` above the road."""

    every: PointScores = NO_POINTS
    filtered: PointScores = NO_POINTS


NO_CLOUD = CloudScores()


class Cloud:
    """Voxel-subsampled points [N, 3] (metres, reference frame, y down) with a search tree."""

    def __init__(self, points: Points) -> None:
        self.points = voxel_subsample(points)
        self.queries = self.points[:: max(1, -(-len(self.points) // QUERIES))]
        # Sliding midpoint splits and large leaves build several times faster and search as fast on streets.
        self.tree = cKDTree(self.points, leafsize=32, balanced_tree=False, compact_nodes=False)

    def distances_to(self, other: Cloud) -> NDArray[np.float64]:
        """[M] metres from each query point to the nearest point of ``other``, at most `TRUNCATE_M`."""
        if not len(other.points):
            return np.full(len(self.queries), TRUNCATE_M)
        found = other.tree.query(self.queries, distance_upper_bound=TRUNCATE_M)[0]
        return np.minimum(found, TRUNCATE_M)


def sample_clouds(
    prediction: FactoredPrediction, targets: ViewTargets, alone: FactoredPrediction | None = None
) -> list[tuple[CloudScores, CloudScores]]:
    """Per sample: scores of the fused cloud of all vehicles, and of the reference vehicle's alone.

    Both are scored against the true points of all vehicles, so their difference is what cooperation adds.

    Args:
        prediction: [B, V, ...]; a point counts where it is called non-ambiguous and can be judged: the range
            is known, or it is known that there is no surface. Else (between the beams of a LiDAR, say) it is
            neither right nor wrong.
        targets: [B, V, ...]; every point with trustworthy range is true.
        alone: what the same model says given the reference vehicle's views only, [B, its views, ...]; None
            takes its part of ``prediction``. Not scored where the sample has one vehicle only.

    Returns:
        B pairs; without scores for samples that are not metric or have no true point.
    """
    step = _pixel_step(targets)
    prediction, targets = _thinned(prediction, step), _thinned(targets, step)
    own = targets.vehicle == targets.vehicle[0]
    count = int(own.sum())
    alone = None if alone is None else _thinned(alone, step)
    judged = targets.valid | (targets.mask_known & ~targets.non_ambiguous)
    points, keep, true_points = prediction.points_ref, prediction.non_ambiguous & judged, targets.points_ref
    if alone is None:
        points_alone, keep_alone = points[:, own], keep[:, own]
    else:
        points_alone = alone.points_ref
        keep_alone = alone.non_ambiguous & judged[:, own]
    out = []
    for b, metric in enumerate(targets.is_metric.tolist()):
        truth = Cloud(_select(true_points[b], targets.valid[b])) if metric else None
        if truth is None or not len(truth.points):
            out.append((NO_CLOUD, NO_CLOUD))
            continue
        fused = cloud_scores(Cloud(_select(points[b], keep[b])), truth)
        single = count < len(own) and cloud_scores(Cloud(_select(points_alone[b], keep_alone[b])), truth)
        out.append((fused, single or NO_CLOUD))
    return out


def _pixel_step(targets: ViewTargets) -> int:
    """Pixel stride: keep every n-th row and column to bound the cost."""
    return math.ceil(math.sqrt(targets.range_m[0].numel() / MAX_PIXELS))


def _thinned(record: RecordT, step: int) -> RecordT:
    if step <= 1:
        return record
    images = {f.name: getattr(record, f.name) for f in fields(record) if f.name != "T_ref_view"}
    return replace(
        record,
        **{k: x[:, :, ::step, ::step] for k, x in images.items() if isinstance(x, Tensor) and x.ndim >= 4},
    )


def _select(points: Tensor, keep: Tensor) -> Points:
    return points[keep].float().cpu().numpy()


def voxel_subsample(points: Points, voxel_m: float = VOXEL_M) -> Points:
    """The first point of each occupied voxel, voxels in order of their position (so: deterministic)."""
    if not len(points):
        return points
    limit = 1 << 20
    cells = np.floor(points / np.float32(voxel_m)).clip(-limit, limit - 1).astype(np.int64)
    keys = (cells[:, 0] << 42) + (cells[:, 1] << 21) + cells[:, 2]
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    return points[order[first]]


def cloud_scores(predicted: Cloud, truth: Cloud) -> CloudScores:
    """Score one cloud against another, both ways; NaN where the truth is empty.

    An empty prediction is counted, not left out: accuracy and completeness are `TRUNCATE_M`, fractions 0.
    The height filter chooses the points that ask, not those that answer: a true point just below the limit is
    found by a predicted one just above it.
    """
    if not len(truth.points):
        return NO_CLOUD
    accuracy, completeness = predicted.distances_to(truth), truth.distances_to(predicted)
    low_p, low_t = _within_height(predicted.queries), _within_height(truth.queries)
    return CloudScores(
        _scores(accuracy, completeness, predicted.points, truth.points),
        _scores(
            accuracy[low_p],
            completeness[low_t],
            predicted.points[_within_height(predicted.points)],
            truth.points[_within_height(truth.points)],
        ),
    )


def _within_height(points: Points) -> NDArray[np.bool_]:
    height = SENSOR_HEIGHT_M - points[:, 1]
    return (height >= HEIGHT_M[0]) & (height <= HEIGHT_M[1])


def _scores(
    accuracy: NDArray[np.float64], completeness: NDArray[np.float64], predicted: Points, truth: Points
) -> PointScores:
    if not len(completeness):
        return NO_POINTS
    precision = [float((accuracy < t).mean()) if len(accuracy) else 0.0 for t in THRESHOLDS_M]
    recall = [float((completeness < t).mean()) for t in THRESHOLDS_M]
    fscore = [2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(precision, recall, strict=True)]
    accuracy_m = float(accuracy.mean()) if len(accuracy) else TRUNCATE_M
    completeness_m = float(completeness.mean())
    means = [accuracy_m, completeness_m, (accuracy_m + completeness_m) / 2]
    numbers = [*means, *precision, *recall, *fscore, bev_iou(predicted, truth)]
    return PointScores(len(predicted), len(truth), *numbers)


def bev_iou(predicted: Points, truth: Points) -> float:
    """Intersection over union of the ground cells (0.5 m, within 60 m of the reference) that hold a point."""
    p, t = _occupied(predicted), _occupied(truth)
    union = int((p | t).sum())
    return int((p & t).sum()) / union if union else math.nan


def _occupied(points: Points) -> NDArray[np.bool_]:
    x, z = points[:, 0], points[:, 2]
    near = x * x + z * z < BEV_RADIUS_M**2
    cells = (((c[near] + BEV_RADIUS_M) / BEV_CELL_M).astype(np.int64) for c in (x, z))  # all positive
    column, row = (np.minimum(c, BEV_CELLS - 1) for c in cells)  # float32 rounds the last hair's breadth up
    grid = np.zeros((BEV_CELLS, BEV_CELLS), np.bool_)
    grid[row, column] = True
    return grid
