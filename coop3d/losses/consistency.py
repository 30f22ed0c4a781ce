"""Consistency: what two vehicles both see should be at one place."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from coop3d.losses.robust import check_robust, robust, squared_distance
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue

GOLDEN = 0.6180339887498949


class Matches(NamedTuple):
    """For picked pixels of one view, the nearest picked pixel of another."""

    partner: Tensor  # [B, P] index into the other view's picked pixels
    close: Tensor  # [B, P] bool: both are valid and truly near each other


def pick_pixels(valid: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Up to ``count`` valid pixels of every view, spread over the image, always the same ones.

    Args:
        valid: [B, V, N] bool.
        count: P.

    Returns:
        [B, V, P] pixel indices, and [B, V, 1] bool, whether the view has any valid pixel at all. A view with
        fewer valid pixels than ``count`` repeats some.
    """
    rank = torch.cumsum(valid, dim=-1)  # [B, V, N] 1, 2, 3, ... at the valid pixels
    n = rank[..., -1:]
    # Multiples of the golden ratio modulo 1 never line up with the columns as equal steps do.
    spread = torch.arange(count, device=valid.device, dtype=torch.float64) * GOLDEN % 1.0
    wanted = (spread * n).long() + 1  # [B, V, P] in 1..n
    index = torch.searchsorted(rank, wanted).clamp_max(valid.shape[-1] - 1)
    return index, n > 0


def nearest(points: Tensor, others: Tensor, within_m: float, both: Tensor) -> Matches:
    """Nearest of ``others`` [B, P, 3] for each of ``points`` [B, P, 3], where ``both`` [B, 1] views have any."""
    distance, partner = torch.cdist(points, others).min(dim=-1)
    return Matches(partner, (distance < within_m) & both)


class ConsistencyTerm(Term):
    """Points of one vehicle's view, moved by predicted poses, against the others' where both see.

    ``sqrt(|(X_i - X_j) - (X_i* - X_j*)|^2 / c_m^2 + 1) - 1`` in metres, reference frame. Pixels i and j of two
    vehicles are paired when their *true* points lie within ``within_m`` of each other, the nearest first; truth
    only decides who is compared and removes their true offset, so a perfect prediction costs 0. An error that
    moves both vehicles' points alike costs nothing. Needs no camera model. Views of one vehicle are not
    compared.

    Logs ``matched`` (share of picked pixels with a partner) and ``gap_m`` (their mean distance in excess).

    Args:
        weight: weight in the sum.
        c_m: distance in metres at which the penalty leaves its quadratic part.
        within_m: how close the true points must be.
        pixels: picked per view; memory grows with its square.
    """

    def __init__(
        self, weight: float = 1.0, c_m: float = 0.5, within_m: float = 1.0, pixels: int = 1024
    ) -> None:
        super().__init__(weight)
        check_robust(c_m, 1.0)
        if not within_m > 0 or pixels < 1:
            raise ValueError(f"ConsistencyTerm: within_m is {within_m}, pixels is {pixels}; expected > 0")
        self.c_m, self.within_m, self.pixels = c_m, within_m, pixels

    def __call__(self, scene: Scene) -> TermValue:
        index, seen = pick_pixels(scene.valid.flatten(2), self.pixels)
        pred, true = (_gather(x.flatten(2, 3), index) for x in (scene.pred_points, scene.true_points))
        views, vehicle = range(true.shape[1]), scene.targets.vehicle
        different = vehicle[:, None] != vehicle[None]  # [V, V]
        values = []
        for i in views:
            for j in views:
                if i == j:
                    continue
                both = seen[:, i] & seen[:, j] & different[i, j]
                match = nearest(true[:, i], true[:, j], self.within_m, both)
                gap = pred[:, i] - _gather(pred[:, j], match.partner)
                true_gap = true[:, i] - _gather(true[:, j], match.partner)
                values.append((squared_distance(gap, true_gap), match.close))
        return self._value(scene, values)

    def _value(self, scene: Scene, values: list[tuple[Tensor, Tensor]]) -> TermValue:
        """From squared gaps [B, P] and masks of all ordered pairs of views."""
        if not values:  # one view agrees with itself
            nothing = scene.pred_points.new_zeros(len(scene.valid), 1, 1)
            return TermValue(nothing + 0 * scene.prediction.scale[:, None, None], nothing)
        squared, close = (torch.stack(x, dim=1) for x in zip(*values, strict=True))  # [B, pairs, P]
        gap = torch.where(close, squared.detach().sqrt(), 0.0).sum() / close.sum().clamp_min(1)
        statistics = {"matched": close.to(gap.dtype).mean(), "gap_m": gap}
        return TermValue.over(robust(squared, self.c_m, alpha=1.0), close, statistics)


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` [..., P] of ``x`` [..., N, 3]."""
    return x.gather(-2, index[..., None].expand(*index.shape, 3))
