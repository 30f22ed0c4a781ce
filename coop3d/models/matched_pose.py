"""Poses from matches: descriptors say which cells show the same place, known rays and predicted range say where."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from coop3d.geometry import invert_rigid, matrix_to_quat
from coop3d.geometry.cells import CellGrid, at_cells, cell_angle, cell_angles
from coop3d.geometry.precision import full_precision
from coop3d.geometry.ray_alignment import Alignment, PointNoise, RayPoints, align
from coop3d.geometry.transforms import eye_like
from coop3d.models.config import MatchingConfig
from coop3d.types import FactoredPrediction

MOST_MATCHES = 1500
LEAST_MATCHES = 4
LEAST_PROBABILITY = 3e-3  # of a match; what is below never decides anything and costs time


@torch.no_grad()
def pose_from_matches(
    prediction: FactoredPrediction, config: MatchingConfig, cameras: int = 1, wrap: bool = False
) -> FactoredPrediction:
    """Replace regressed poses by those that the matches give, where enough of them agree.

    Every pair of views is aligned (`coop3d.geometry.ray_alignment.align`). From the reference outwards each view is
    then reached through the pairs of largest support, so that vehicles out of each other's sight are joined by a third.
    A view that no pair of at least ``min_support`` reaches keeps the pose of the pose head.

    Fused photographs (``cameras`` above 1) take part as one view per vehicle: their cells are one set, each with its
    own size, matches inside a vehicle do not exist, and all photographs get the vehicle's pose. Photographs that are
    views of their own are aligned one by one, those of one rig, too, although these hardly overlap (OPV2V's rear
    camera the sides' by 20 degrees, the others not at all): most can only be joined through another vehicle, and what
    is not joined keeps its regressed pose.

    Args:
        prediction: with descriptors; views in any number.
        config: of the matching head.
        cameras: successive views that share one frame and one pose.
        wrap: left and right borders of the images touch.

    Returns:
        The same with ``trans`` and ``quat_xyzw`` replaced, and ``pose_support`` set.
    """
    with full_precision(prediction.trans.device.type):  # half precision has no inverse
        return _posed(prediction, config, cameras, wrap)


def _posed(
    prediction: FactoredPrediction, config: MatchingConfig, cameras: int, wrap: bool
) -> FactoredPrediction:
    assert prediction.descriptors is not None
    B, V = prediction.trans.shape[:2]
    T, support = prediction.T_ref_view.clone(), prediction.trans.new_zeros(B, V)
    poses = [slice(first, first + cameras) for first in range(0, V, cameras)]
    for b in range(B):
        cells = [_Cells.of(prediction, b, views, wrap) for views in poses]
        edges = {(i, j): _align(cells[i], cells[j], config) for i, j in combinations(range(len(poses)), 2)}
        for n, (T_ref_view, agreed) in _reach_from_reference(edges, config.min_support).items():
            T[b, poses[n]], support[b, poses[n]] = T_ref_view, agreed
    return replace(
        prediction,
        trans=T[..., :3, 3] / prediction.scale[:, None, None],
        quat_xyzw=torch.where((support > 0)[..., None], matrix_to_quat(T[..., :3, :3]), prediction.quat_xyzw),
        pose_support=support,
    )


@dataclass(frozen=True)
class _Cells:
    """What has one pose on the matching grid, one view or the photographs of a vehicle: N cells of all of them."""

    points: RayPoints  # [N] through the cells' middle pixels
    descriptors: Tensor  # [N, D]
    weight: Tensor  # [N] probability that the cell shows a surface which another view shows, too
    angle: float | Tensor  # rad between the rays of neighbouring cells; of photographs [N]
    grid: CellGrid

    @classmethod
    def of(cls, prediction: FactoredPrediction, b: int, views: slice, wrap: bool) -> _Cells:
        assert prediction.descriptors is not None
        assert prediction.seen_logits is not None
        descriptors = prediction.descriptors[b, views]  # [K, h, w, D]
        grid = (descriptors.shape[1], descriptors.shape[2])
        rays, range_m, mask = (
            at_cells(x[b, views], grid, 1)
            for x in (prediction.rays, prediction.range_m, prediction.mask_logits)
        )
        origins = torch.zeros_like(rays)
        if prediction.origins is not None:
            origins = at_cells(prediction.origins[b, views], grid, 1)
        seen = prediction.seen_logits[b, views].flatten().sigmoid()
        return cls(
            RayPoints(origins.flatten(0, 1), rays.flatten(0, 1), range_m.flatten()),
            descriptors.flatten(0, 2),
            seen * mask.flatten().sigmoid(),
            cell_angle(rays, grid) if len(rays) == 1 else cell_angles(rays, grid).flatten(),
            CellGrid(*grid, wraps=wrap),
        )

    def between(self, cells: Tensor, odds: Tensor) -> RayPoints:
        """Points of cells [M], their rays turned half way to where a match probably lies between cells.

        That is the mean direction of the cells around, seen from the cell's own origin (at a seam a neighbour has
        another), weighted by their probabilities. Half way, because the other view's cell has moved as well: the
        place in the middle of cell i is seen at some shift from the middle of cell j, that in the middle of j at the
        opposite shift from i, and the place between both at half of each.

        Args:
            cells: [M] of this view in M matches.
            odds: [M, N] probability of each cell of this view to be the counterpart of the match's other cell.
        """
        around = self.grid.around(cells)
        weights = odds.gather(1, around.clamp_min(0)) * (around >= 0)
        points = self.points.pick(cells)
        towards = F.normalize(self.points.points[around.clamp_min(0)] - points.origins[:, None], dim=-1)
        mean = F.normalize((weights[..., None] * towards).sum(dim=1), dim=-1)
        return points._replace(rays=F.normalize(points.rays + mean, dim=-1))


def _align(a: _Cells, b: _Cells, config: MatchingConfig) -> Alignment | None:
    """Pose of b in a; None where there are too few matches.

    A match is a pair of cells whose joint probability is a peak over the cells around either: neighbours of a peak
    repeat it, slightly off. Not only mutual best matches count: while descriptors are uncertain, many weak ones that
    agree know the pose better than a few strong ones. A weight is the geometric mean of the match's probabilities from
    either side, and what these say of the cells around tells its direction to a fraction of a cell.
    """
    similarity = a.descriptors @ b.descriptors.mT  # [Na, Nb]
    in_b, in_a = similarity.softmax(dim=1), similarity.softmax(dim=0)
    odds = in_b * in_a * a.weight[:, None] * b.weight
    peaks = a.grid.peaks(odds, 0) | b.grid.peaks(odds, 1)
    weights, pairs = (odds * peaks).sqrt().flatten().topk(min(MOST_MATCHES, odds.numel()))
    # The heaviest come first, so a number cuts them; with a mask as index, twice, a GPU would wait twice more.
    kept = int((weights > LEAST_PROBABILITY).sum())
    if kept < LEAST_MATCHES:
        return None
    weights, pairs = weights[:kept], pairs[:kept]
    first, second = pairs // odds.shape[1], pairs % odds.shape[1]
    angle = _coarser(a.angle, first, b.angle, second)
    noise = PointNoise(angle=config.angle_noise * angle, log_range=config.range_noise)
    return align(a.between(first, in_a.mT[second]), b.between(second, in_b[first]), weights, noise)


def _coarser(a: float | Tensor, first: Tensor, b: float | Tensor, second: Tensor) -> float | Tensor:
    """The larger angle of the two cells of each match."""
    if isinstance(a, Tensor):
        assert isinstance(b, Tensor), "all views of a sample are of one kind"
        return torch.maximum(a[first], b[second])
    assert not isinstance(b, Tensor)
    return max(a, b)


def _reach_from_reference(
    edges: dict[tuple[int, int], Alignment | None], min_support: float
) -> dict[int, tuple[Tensor, Tensor]]:
    """(pose in the reference frame, support of the weakest pair on the way) of every view that is reached.

    Args:
        edges: pose of view j in view i by (i, j), i < j.
        min_support: pairs below are not used.
    """
    found = {pair: e for pair, e in edges.items() if e is not None}
    if not found:
        return {}
    supports = torch.stack([e.support for e in found.values()])
    strength = dict(zip(found, supports.tolist(), strict=True))
    good = {pair: e for pair, e in found.items() if strength[pair] >= min_support}
    reached = {0: (eye_like(4, supports), supports.new_tensor(torch.inf))}
    while border := [pair for pair in good if (pair[0] in reached) != (pair[1] in reached)]:
        i, j = max(border, key=strength.__getitem__)
        edge = good[i, j]
        known, new, step = (i, j, edge.T_a_b) if i in reached else (j, i, invert_rigid(edge.T_a_b))
        T, agreed = reached[known]
        reached[new] = (T @ step, torch.minimum(agreed, edge.support))
    del reached[0]
    return reached
