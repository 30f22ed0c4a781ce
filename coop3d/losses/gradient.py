"""Gradient matching: neighbours in the image should differ in range as they truly do."""

from __future__ import annotations

import torch
from torch import Tensor

from coop3d.losses.neighbours import ahead, panorama_neighbours
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue


class GradientMatchingTerm(Term):
    """``|e(p + step) - e(p)|`` with ``e = log r - log r*``, mean over pairs, summed over steps 1, 2, 4, 8.

    Along the ray, not along z, which is negative behind the vehicle. Columns of a full circle wrap around,
    and no pair straddles a border of source cameras (`panorama_neighbours`). Since ``e`` is a difference of
    logarithms the term does not see scale.

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
        valid = scene.dense if self.synthetic_only else scene.valid
        error = scene.log_range_error  # [B, V, H, W]
        joined = panorama_neighbours(scene.targets)
        levels = []
        for step in (2**level for level in range(self.levels)):
            reach = joined.reaching(step)
            pairs = [self._pairs(error, valid, reach.right, step, -1)]
            pairs.append(self._pairs(error, valid, reach.down, step, -2))
            difference, both = (torch.stack(x, dim=2) for x in zip(*pairs, strict=True))
            levels.append(TermValue.over(difference, both))
        return TermValue.joined(levels)

    @staticmethod
    def _pairs(error: Tensor, valid: Tensor, joined: Tensor, step: int, dim: int) -> tuple[Tensor, Tensor]:
        """Differences [B, V, H, W] ``step`` pixels on, and where they count."""
        both = valid & ahead(valid, step, dim) & joined
        if error.shape[dim] <= step:  # would wrap onto itself
            both = torch.zeros_like(both)
        return (ahead(error, step, dim) - error).abs(), both
