"""Poses from matches: descriptors say which cells show the same place, known rays and predicted range say where."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from coop3d.geometry import invert_rigid, matrix_to_quat
from coop3d.geometry.cells import at_cells, cell_angle
from coop3d.geometry.ray_alignment import Alignment, PointNoise, RayPoints, align
from coop3d.models.config import MatchingConfig
from coop3d.types import FactoredPrediction

MOST_MATCHES = 1500
LEAST_MATCHES = 4
LEAST_PROBABILITY = 3e-3  # of a match; what is below never decides anything and costs time


@torch.no_grad()
def pose_from_matches(prediction: FactoredPrediction, config: MatchingConfig) -> FactoredPrediction:
    """Replace regressed poses by those that the matches give, where enough of them agree.

    Every pair of views is aligned (`coop3d.geometry.ray_alignment.align`). From the reference outwards each view is
    then reached through the pairs of largest support, so that vehicles out of each other's sight are joined by a third.
    A view that no pair of at least ``min_support`` reaches keeps the pose of the pose head.

    Args:
        prediction: with descriptors; views in any number.
        config: of the matching head.

    Returns:
        The same with ``trans`` and ``quat_xyzw`` replaced, and ``pose_support`` set.
    """
    assert prediction.descriptors is not None
    B, V = prediction.trans.shape[:2]
    T, support = prediction.T_ref_view.clone(), prediction.trans.new_zeros(B, V)
    for b in range(B):
        views = [_Cells.of(prediction, b, v) for v in range(V)]
        edges = {(i, j): _align_views(views[i], views[j], config) for i, j in combinations(range(V), 2)}
        for view, (T_ref_view, agreed) in _reach_from_reference(edges, config.min_support).items():
            T[b, view], support[b, view] = T_ref_view, agreed
    return replace(
        prediction,
        trans=T[..., :3, 3] / prediction.scale[:, None, None],
        quat_xyzw=torch.where((support > 0)[..., None], matrix_to_quat(T[..., :3, :3]), prediction.quat_xyzw),
        pose_support=support,
    )


@dataclass(frozen=True)
class _Cells:
    """One view on the matching grid: N cells."""

    points: RayPoints  # [N] through the cells' middle pixels
    descriptors: Tensor  # [N, D]
    weight: Tensor  # [N] probability that the cell shows a surface which another view shows, too
    angle: float  # rad between the rays of neighbouring cells

    @classmethod
    def of(cls, prediction: FactoredPrediction, b: int, v: int) -> _Cells:
        assert prediction.descriptors is not None
        assert prediction.seen_logits is not None
        descriptors = prediction.descriptors[b, v]  # [h, w, D]
        grid = (descriptors.shape[0], descriptors.shape[1])
        rays, mask = at_cells(prediction.rays[b, v], grid, 0), at_cells(prediction.mask_logits[b, v], grid, 0)
        origins = torch.zeros_like(rays)
        if prediction.origins is not None:
            origins = at_cells(prediction.origins[b, v], grid, 0)
        return cls(
            RayPoints(origins, rays, at_cells(prediction.range_m[b, v], grid, 0)),
            descriptors.flatten(0, 1),
            prediction.seen_logits[b, v].flatten().sigmoid() * mask.sigmoid(),
            cell_angle(rays, grid),
        )


def _align_views(a: _Cells, b: _Cells, config: MatchingConfig) -> Alignment | None:
    """Pose of b in a; None where there are too few matches.

    Not only mutual best matches count: while descriptors are uncertain, many weak ones that agree know the pose better
    than a few strong ones, and neighbouring cells that share a match locate it between their rays. A weight is the
    geometric mean of the match's probabilities from either side.
    """
    similarity = a.descriptors @ b.descriptors.mT  # [Na, Nb]
    odds = similarity.softmax(dim=1) * similarity.softmax(dim=0) * a.weight[:, None] * b.weight
    weights, pairs = odds.sqrt().flatten().topk(min(MOST_MATCHES, odds.numel()))
    kept = weights > LEAST_PROBABILITY
    weights, pairs = weights[kept], pairs[kept]
    if len(weights) < LEAST_MATCHES:
        return None
    first, second = pairs // odds.shape[1], pairs % odds.shape[1]
    noise = PointNoise(angle=config.angle_noise * max(a.angle, b.angle), log_range=config.range_noise)
    return align(a.points.pick(first), b.points.pick(second), weights, noise)


def _reach_from_reference(
    edges: dict[tuple[int, int], Alignment | None], min_support: float
) -> dict[int, tuple[Tensor, Tensor]]:
    """(pose in the reference frame, support of the weakest pair on the way) of every view that is reached.

    Args:
        edges: pose of view j in view i by (i, j), i < j.
        min_support: pairs below are not used.
    """
    good = {pair: e for pair, e in edges.items() if e is not None and float(e.support) >= min_support}
    if not good:
        return {}
    some = next(iter(good.values()))
    reached = {0: (torch.eye(4).to(some.T_a_b), torch.full_like(some.support, torch.inf))}
    while border := [pair for pair in good if (pair[0] in reached) != (pair[1] in reached)]:
        i, j = max(border, key=lambda pair: float(good[pair].support))
        edge = good[i, j]
        known, new, step = (i, j, edge.T_a_b) if i in reached else (j, i, invert_rigid(edge.T_a_b))
        T, agreed = reached[known]
        reached[new] = (T @ step, torch.minimum(agreed, edge.support))
    del reached[0]
    return reached
