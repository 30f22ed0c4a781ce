"""Gradient matching on the panorama: neighbours in the image should differ in range as they truly do."""

from __future__ import annotations

import torch
from torch import Tensor

from coop3d.losses.robust import masked_mean, squared_distance
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue
from coop3d.types import ViewTargets


def _ahead(x: Tensor, step: int, dim: int) -> Tensor:
    """Value ``step`` pixels further along ``dim`` (-1: to the right, -2: down), circular."""
    return torch.roll(x, -step, dims=dim)


def _joined_to_next(targets: ViewTargets) -> dict[int, Tensor]:
    """For dim -1 (right) and -2 (down): [B, V, H, W] bool, the next pixel belongs to the same camera.

    The last column is joined to the first where their rays are neighbours, i.e. in a full circle; in a plain
    photograph they are not. The last row is joined to nothing.
    """
    source, rays = targets.source, targets.rays
    joined = {dim: source == _ahead(source, 1, dim) for dim in (-1, -2)}
    seam = squared_distance(rays[..., -1, :], rays[..., 0, :])  # [B, V, H]
    neighbours = squared_distance(rays[..., -2:, :][..., 0, :], rays[..., -1, :])
    joined[-1][..., -1] &= seam < 4 * neighbours
    joined[-2][..., -1, :] = False
    return joined


class GradientMatchingTerm(Term):
    """``|e(p + step) - e(p)|`` with ``e = log r - log r*``, mean over pairs, summed over steps 1, 2, 4, 8.

    Columns of a full circle wrap around: its first and last column are neighbours. Rows do not. A pair counts
    when both ends are valid and no border of ``targets.source`` lies between them: across it two cameras
    with different centres meet, and range jumps although the surface does not. Since ``e`` is a difference
    of logarithms the term does not see scale.

    Args:
        weight: weight in the sum.
        levels: number of steps, doubling from 1 pixel.
        synthetic_only: only dense, exact range (``is_synthetic``); neighbouring LiDAR hits may straddle an
            edge.
    """

    def __init__(self, weight: float = 1.0, levels: int = 4, synthetic_only: bool = True) -> None:
        super().__init__(weight)
        if levels < 1:
            raise ValueError(f"GradientMatchingTerm: levels is {levels}, expected at least 1")
        self.levels, self.synthetic_only = levels, synthetic_only

    def __call__(self, scene: Scene) -> TermValue:
        error = torch.log(scene.pred_range.clamp_min(1e-6)) - torch.log(scene.true_range)  # [B, V, H, W]
        valid = scene.valid
        if self.synthetic_only:
            valid = valid & scene.targets.is_synthetic[:, None, None, None]
        total = error.new_zeros(error.shape[0])
        joined = _joined_to_next(scene.targets)  # at every level its reach doubles: no border within `step`
        for level in range(self.levels):
            step = 2**level
            both, difference = [], []
            for dim in (-1, -2):
                if error.shape[dim] > step:
                    both.append(valid & _ahead(valid, step, dim) & joined[dim])
                    difference.append((_ahead(error, step, dim) - error).abs())
                joined[dim] = joined[dim] & _ahead(joined[dim], step, dim)
            if both:
                total = total + masked_mean(torch.stack(difference, dim=1), torch.stack(both, dim=1))
        return TermValue(total)
