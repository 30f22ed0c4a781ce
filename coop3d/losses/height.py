"""A prior where nothing supervises: no layers floating above the street."""

from __future__ import annotations

import torch

from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue


class HeightPriorTerm(Term):
    """``relu(height - height_max_m)`` in metres, on covered pixels without trustworthy range.

    Height is above the view's centre, in the view's own frame (its y axis points down), so the term moves
    range and scale but never a pose. Pixels known to show no surface (``mask_known`` and not
    ``non_ambiguous``: sky) are left out unless ``include_sky``: their range means nothing.

    Logs ``above``: the share of the pixels looked at that are too high.

    Args:
        weight: weight in the sum; the value is in metres, so a small one.
        height_max_m: highest surface expected, above the view's centre.
        include_sky: whether known sky is pulled down too.
    """

    def __init__(self, weight: float = 1.0, height_max_m: float = 20.0, include_sky: bool = False) -> None:
        super().__init__(weight)
        self.height_max_m, self.include_sky = height_max_m, include_sky

    def __call__(self, scene: Scene) -> TermValue:
        targets = scene.targets
        looked_at = targets.covered & ~targets.valid
        if not self.include_sky:
            looked_at = looked_at & ~(targets.mask_known & ~targets.non_ambiguous)
        height = -torch.where(looked_at, scene.prediction.points_view[..., 1], 0.0)
        excess = torch.relu(height - self.height_max_m)
        share = ((excess > 0) & looked_at).sum() / looked_at.sum().clamp_min(1)
        return TermValue.over(excess, looked_at, {"above": share.to(excess.dtype)})
