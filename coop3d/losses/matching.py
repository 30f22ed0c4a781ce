"""Matching term: descriptors of two views are equal where they show the same place, and only there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from coop3d.geometry.cells import CellGrid, at_cells, cell_angle, cell_walls
from coop3d.losses.scene import SAME_POSE, Scene
from coop3d.losses.term import Term, TermValue
from coop3d.types import ViewTargets

USUAL_SHARE = 0.2  # of cells with a counterpart in OPV2V-like towns, over pairs within 60 m
REACH = 0.75  # cells between a ray and a point in the ray's cell at most: half a diagonal, and a little more
SLACK = 2e-3  # sine of the angle by which a point may seem outside of its cell: corners are extrapolated
# In place of a counterpart. Hidden: the other view measures only nearer surfaces in that cell and those around it.
NOT_FOUND, HIDDEN = -1, -2


class MatchingTerm(Term):
    """Cross-entropy of each cell's counterpart among all cells of the other view (InfoNCE), in both directions.

    The truth follows from ranges and poses alone (`Cells.counterparts`). The sum is divided by the number of cells
    that have a counterpart where ``USUAL_SHARE`` of all do: vehicles that see much of the same say more than those
    that share a handful of cells, whose mean would be noise. Beside it, ``seen_weight`` times the cross-entropy of
    ``seen_logits``: does any other view show this place at all?

    Photographs of a vehicle that share its pose (``dataset.frame=vehicle``) count as one view: the cells of all of them
    are candidates together, and none is sought among its own vehicle's. Where two photographs of the other vehicle show
    the place, either is right: the probability of both together counts.

    Speaks about metric samples. Where range is sparse (LiDAR) a cell stands for the measured pixel nearest to its
    middle, and ``seen_logits`` are trained only where the answer is certain: a counterpart is found, or every other
    view measures a nearer surface in that direction. No measurement in the other view says nothing.

    Args:
        weight: of the term.
        seen_weight: of the second part.
        range_tolerance: relative difference up to which two ranges are one surface, beyond the span of ranges inside
            a cell.

    Logs ``right``: the share of cells with a counterpart whose best match it is; ``entropy``: their mean
    cross-entropy; and ``found``: the share of cells with a counterpart.
    """

    def __init__(self, weight: float = 1.0, seen_weight: float = 0.5, range_tolerance: float = 0.05) -> None:
        super().__init__(weight)
        if not range_tolerance > 0:
            raise ValueError(f"MatchingTerm: range_tolerance is {range_tolerance}, expected a number > 0")
        self.seen_weight, self.range_tolerance = seen_weight, range_tolerance

    def __call__(self, scene: Scene) -> TermValue:
        descriptors, seen = scene.prediction.descriptors, scene.prediction.seen_logits
        if descriptors is None or seen is None:
            raise ValueError(
                "MatchingTerm: the model predicts no descriptors; set model.pred_head.matching as "
                "configs/model/small.yaml does, or drop the term"
            )
        K = photographs_per_pose(scene.targets)
        cells = Cells.of(scene, (descriptors.shape[2], descriptors.shape[3]), K)
        flat = descriptors.unflatten(1, (-1, K)).flatten(2, 4)  # [B, poses, K N, D]
        known = cells.known.unflatten(1, (-1, K)).flatten(2)
        pairs = [*permutations(range(flat.shape[1]), 2)]
        if not pairs:  # one view: nothing to match, but processes wait for a gradient of every parameter
            nothing = torch.zeros_like(known)
            doubt = self._doubt(scene, seen, known, visible=nothing, hidden=nothing)
            return doubt._replace(sums=doubt.sums + 0.0 * flat.sum())
        partners = torch.stack([cells.partners(a, b, self.range_tolerance) for a, b in pairs], dim=1)
        costs, right, has = _cross_entropy(flat, pairs, partners)  # [B, pairs, N]
        # Pairs are ordered by their first view, whose cells the second one shows or hides.
        by_view = (flat.shape[1], -1)
        visible = has.unflatten(1, by_view).any(dim=2)
        hidden = (partners == HIDDEN).any(dim=3).unflatten(1, by_view).all(dim=2)
        matches = _as_one_group(costs, has)
        usual = matches.counts.new_full(matches.counts.shape, USUAL_SHARE * has[0].numel())
        speaks = cells.known.flatten(1).any(dim=1)[:, None, None]
        matches = matches._replace(counts=torch.where(speaks, usual, 0.0))
        total = has.sum().clamp_min(1)
        statistics = {
            "right": right.sum() / total,
            "entropy": costs.detach().sum() / total,
            "found": has.to(costs.dtype).mean(),
        }
        return TermValue.joined([self._doubt(scene, seen, known, visible, hidden), matches], statistics)

    def _doubt(self, scene: Scene, seen: Tensor, known: Tensor, visible: Tensor, hidden: Tensor) -> TermValue:
        """Cross-entropy of ``seen`` against whether another view shows a cell: ``visible`` [B, poses, N].

        With dense range, what is not visible is not seen; with sparse range, only what is ``hidden``.
        """
        value = F.binary_cross_entropy_with_logits(
            seen.reshape(visible.shape), visible.to(seen.dtype), reduction="none"
        )
        certain = known & (scene.targets.is_synthetic[:, None, None] | visible | hidden)
        return _as_one_group(value, certain).scaled(self.seen_weight)


def photographs_per_pose(targets: ViewTargets) -> int:
    """How many successive views have one pose: a vehicle's photographs in its frame; 1 where each has its own."""
    vehicle = targets.vehicle.tolist()
    K = len(vehicle) // len(set(vehicle))
    if K == 1 or vehicle != [n for n in range(len(vehicle) // K) for _ in range(K)]:
        return 1
    poses = targets.T_ref_view.unflatten(1, (-1, K))
    return K if bool((poses - poses[:, :, :1]).abs().max() < SAME_POSE) else 1


def _cross_entropy(
    descriptors: Tensor, pairs: Sequence[tuple[int, int]], partners: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cost of the partners of each cell of a view among all cells of another; of cells that have one, a fifth, alone.

    Args:
        descriptors: [B, P, N, D].
        pairs: (view, other view), as `itertools.permutations` orders them.
        partners: [B, pairs, N, K] cells of the other view that are right, the probability of all counts; < 0: none.

    Returns:
        Cross-entropy [B, pairs, N], 0 without partner; whether a partner is the best candidate [B, pairs, N]; and which
        cells have a partner [B, pairs, N].
    """
    has = (partners >= 0).any(dim=3)
    partners = partners[has]
    rows = descriptors.repeat_interleave(descriptors.shape[1] - 1, dim=1)[has]
    rows = rows.split(has.sum(dim=2).flatten().tolist())
    candidates = [sample[b] for sample in descriptors for _, b in pairs]
    odds = torch.cat([row @ c.mT for row, c in zip(rows, candidates, strict=True)])  # [rows, N]
    chosen = odds.gather(1, partners.clamp_min(0)).masked_fill(partners < 0, -torch.inf)
    cost = odds.logsumexp(dim=1) - chosen.logsumexp(dim=1)
    hit = (odds.detach().argmax(dim=1, keepdim=True) == partners).any(dim=1)
    return (
        odds.new_zeros(has.shape).masked_scatter(has, cost),
        torch.zeros_like(has).masked_scatter(has, hit),
        has,
    )


def _as_one_group(values: Tensor, mask: Tensor) -> TermValue:
    return TermValue.over(values.flatten(1)[:, None], mask.flatten(1)[:, None])


@dataclass(frozen=True)
class Cells:
    """Truth of the N cells of every view; one pixel represents each cell, see `_representative_pixel`."""

    points: Tensor  # [B, V, N, 3] metres, reference frame
    rays: Tensor  # [B, V, N, 3] unit, reference frame
    origins: Tensor  # [B, V, N, 3] metres, reference frame
    nearest: Tensor  # [B, V, N] smallest range in the cell, metres
    farthest: Tensor  # [B, V, N]
    beyond: Tensor  # [B, V, N] largest range in the cell and those around it: nothing farther is seen there
    known: Tensor  # [B, V, N] bool: the pixel that stands for the cell has a metric range
    cosine_reach: float  # of the angle from a ray at which a point is outside; 0 where walls say it
    per_pose: int = 1  # successive views that have one pose
    columns: int = 0  # of the grid
    walls: Tensor | None = None  # [B, V, N, 4, 3] of photographs, reference frame; instead of the reach

    @classmethod
    @torch.no_grad()
    def of(cls, scene: Scene, grid: tuple[int, int], per_pose: int = 1) -> Cells:
        """From targets with range, rays, origins and poses.

        Args:
            scene: prediction and truth.
            grid: rows, columns of cells.
            per_pose: successive views that have one pose. Above 1 they are photographs, whose cells are of many sizes:
                each is bounded by its own sides, and sought by its middle ray.

        Raises:
            ValueError: if the cells do not divide the image.
        """
        t = scene.targets
        R, c = t.T_ref_view[..., :3, :3], t.T_ref_view[..., None, :3, 3]
        valid = _by_cell(scene.valid & t.is_metric[:, None, None, None], grid)  # [B, V, N, pixels]
        pixel, known = _representative_pixel(valid, t.is_synthetic, scene.valid.shape[-1] // grid[1])
        ranges = _by_cell(scene.true_range, grid)
        rays, origins = _pick(_by_cell(t.rays, grid), pixel), _pick(_by_cell(t.origins, grid), pixel)
        rays, origins = rays @ R.mT, origins @ R.mT + c
        far = torch.where(valid, ranges, 0.0).amax(dim=-1)
        near = torch.where(valid, ranges, torch.inf).amin(dim=-1)
        beyond = CellGrid(*grid).largest_around(far, 2)
        points = origins + _pick(ranges, pixel)[..., None] * rays
        if per_pose == 1:
            step = cell_angle(at_cells(t.rays, grid, 2), grid)
            return cls(points, rays, origins, near, far, beyond, known, math.cos(REACH * step))
        pixel_rays = _by_cell(t.rays, grid)
        middle = F.normalize(pixel_rays.mean(dim=3), dim=-1)  # no pixel's: those are half of one off
        walls = cell_walls(pixel_rays, scene.valid.shape[-1] // grid[1]) @ R[:, :, None].mT
        return cls(points, middle @ R.mT, origins, near, far, beyond, known, 0.0, per_pose, grid[1], walls)

    def partners(self, a: int, b: int, range_tolerance: float) -> Tensor:
        """Counterparts among the views of one pose for the cells of another's: [B, K N, K], one per view of ``b``.

        Cells are numbered through all K views of a pose; ``NOT_FOUND`` or ``HIDDEN`` where a view does not show the
        place.
        """
        K, N = self.per_pose, self.known.shape[2]
        rows = []
        for i in range(a * K, (a + 1) * K):
            cells = [self.counterparts(i, b * K + k, range_tolerance) for k in range(K)]
            rows.append(torch.stack([torch.where(c >= 0, c + k * N, c) for k, c in enumerate(cells)], dim=-1))
        return torch.cat(rows, dim=1)

    @torch.no_grad()
    def counterparts(self, i: int, j: int, range_tolerance: float) -> Tensor:
        """[B, N] for each cell of view i the cell of view j that shows the same place, `NOT_FOUND` or `HIDDEN`.

        It is the cell whose ray, from that ray's own origin, passes nearest to the point, or in a photograph the cell
        between whose sides the point lies. The point must lie inside the cell, as far away as the cell's own surface:
        farther and something hides it. Matrix products and work in place: never a tensor of N x N x 3.
        """
        origins, rays = self.origins[:, j], self.rays[:, j]
        if self.walls is None:  # a cosine of 0 with rays of unknown range
            rays = torch.where(self.known[:, j, :, None], rays, 0.0)
        middle = origins.mean(dim=1, keepdim=True)  # squares of metres from here keep their digits in float32
        points, starts = self.points[:, i] - middle, origins - middle
        one = torch.ones_like(points[..., :1])
        along = torch.cat([points, one], -1) @ torch.cat([rays, -_inner(starts, rays)], -1).mT  # [B, N, N]
        squared = (
            torch.cat([points, _inner(points, points), one], -1)
            @ torch.cat([-2 * starts, torch.ones_like(starts[..., :1]), _inner(starts, starts)], -1).mT
        )
        cosine, cell = along.mul_(squared.clamp_min_(1e-12).rsqrt_()).max(dim=2)
        if self.walls is None:
            inside = cosine > self.cosine_reach
        else:  # photographs: sizes and shapes of cells differ
            cell, inside = self._between_walls(self.points[:, i], j, cell, self.walls[:, j])
        start = starts.gather(1, cell[..., None].expand_as(starts))
        here = (points - start).norm(dim=2)
        nearest, farthest, beyond = (
            x[:, j].gather(1, cell) for x in (self.nearest, self.farthest, self.beyond)
        )
        visible = (here > nearest * (1 - range_tolerance)) & (here < farthest * (1 + range_tolerance))
        hidden = (here > beyond * (1 + range_tolerance)) & (farthest > 0)
        there = torch.where(visible, cell, torch.where(hidden, HIDDEN, NOT_FOUND))
        return torch.where(self.known[:, i] & inside, there, NOT_FOUND)

    def _between_walls(self, points: Tensor, j: int, cell: Tensor, walls: Tensor) -> tuple[Tensor, Tensor]:
        """The cells [B, N] of view j in which points [B, N, 3] lie, and whether they lie there.

        Starts at the cell of the nearest ray. Towards the corners of a photograph cells are sheared and their sizes
        change, so it may be the neighbour across a side.
        """
        batch = torch.arange(len(cell), device=cell.device)[:, None]
        offset = F.normalize(points - self.origins[batch, j, cell], dim=-1)[..., None]
        above, right, below, left = ((walls[batch, cell] @ offset)[..., 0] < 0).long().unbind(-1)
        row, column = cell // self.columns + below - above, cell % self.columns + right - left
        rows = walls.shape[1] // self.columns
        in_view = (row >= 0) & (row < rows) & (column >= 0) & (column < self.columns)
        cell = row.clamp(0, rows - 1) * self.columns + column.clamp(0, self.columns - 1)
        within = (walls[batch, cell] @ offset)[..., 0].amin(dim=-1) > -SLACK
        return cell, in_view & within


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over the last axis, which stays."""
    return (a * b).sum(dim=-1, keepdim=True)


def _by_cell(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, V, H, W, ...] to [B, V, cells, pixels of a cell, ...], both row-major."""
    H, W = x.shape[2:4]
    (h, w), rest = grid, x.shape[4:]
    if H % h or W % w:
        raise ValueError(f"{h} x {w} matching cells do not divide an image of {H} x {W} (height x width)")
    return x.reshape(*x.shape[:2], h, H // h, w, W // w, *rest).transpose(3, 4).flatten(4, 5).flatten(2, 3)


def _representative_pixel(valid: Tensor, dense: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Index of the pixel that represents each cell [B, V, N], and whether its range is known.

    It is the middle pixel, which the descriptor describes; where range is sparse (LiDAR), the measured pixel nearest
    to the middle.

    Args:
        valid: [B, V, N, pixels].
        dense: [B] whether the samples' range is dense.
        columns: pixels per row of a cell.
    """
    number = torch.arange(valid.shape[-1], device=valid.device)
    row, column = number // columns, number % columns
    middle = (valid.shape[-1] // columns // 2, columns // 2)
    away = (row - middle[0]).square() + (column - middle[1]).square()
    nearest = torch.where(valid, away, away.max() + 1).argmin(dim=-1)
    pixel = torch.where(dense[:, None, None], middle[0] * columns + middle[1], nearest)
    return pixel, valid.gather(-1, pixel[..., None])[..., 0]


def _pick(x: Tensor, pixel: Tensor) -> Tensor:
    """[B, V, N, pixels, ...] and [B, V, N] to [B, V, N, ...]."""
    index = pixel[..., None, None].expand(*pixel.shape, 1, *x.shape[4:]) if x.ndim == 5 else pixel[..., None]
    return x.gather(3, index)[:, :, :, 0]
