"""Surface normals: the predicted surface should be inclined as the true one is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from coop3d.losses.neighbours import Vector, corner_mask, corner_normals, cross, dot, panorama_neighbours
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue

ROUND_BELOW = math.radians(3)


def rounded_angle(angle: Tensor) -> Tensor:
    """Angle in radians, quadratic below 3 degrees: ``a^2 / (2 b)``, then ``a - b / 2``."""
    return torch.where(angle < ROUND_BELOW, angle.square() / (2 * ROUND_BELOW), angle - ROUND_BELOW / 2)


class NormalTerm(Term):
    """Angle between predicted and true surface normals, mean over corners, divided by ``max(H, W)``.

    A normal is the cross product of the two edges from a pixel to its neighbours, four per cell of 2 x 2
    pixels. Edges are taken on ``range * ray``, which leaves out the ray origins: within one source camera they
    are equal, and no edge straddles a border of cameras (`panorama_neighbours`); the seam is no border.
    Moving one pixel by 1 % of its range turns its normals by an angle that grows with ``max(H, W)``; the
    division keeps the gradient comparable to that of other terms, as in MapAnything.

    Normals are brought to unit length *before* the angle is computed, unlike in `PublishedNormalTerm`. So the
    angle sees neither scale nor the sampling of the surface, and a perfect prediction costs 0.

    Args:
        weight: weight in the sum.
        synthetic_only: only dense, exact range (``is_synthetic``).
    """

    AREA_FLOOR = 1e-12  # m^2; below, three pixels are one point and have no normal

    def __init__(self, weight: float = 1.0, synthetic_only: bool = True) -> None:
        super().__init__(weight)
        self.synthetic_only = synthetic_only

    def __call__(self, scene: Scene) -> TermValue:
        valid = scene.dense if self.synthetic_only else scene.valid
        pred = corner_normals(_along(scene.pred_range, scene.prediction.rays))
        true = corner_normals(_along(scene.true_range, scene.targets.rays))
        corners = corner_mask(panorama_neighbours(scene.targets).within(valid))
        measured = [self._angle(p, t, m) for p, t, m in zip(pred, true, corners.unbind(dim=2), strict=True)]
        angle, counts = (torch.stack(x, dim=2) for x in zip(*measured, strict=True))  # [B, V, 4, H, W]
        statistics = {"mean_deg": _mean_deg(angle, counts)}
        value = TermValue.over(rounded_angle(angle), counts, statistics)
        return value.scaled(1 / max(valid.shape[-2:]))

    def _angle(self, pred: Vector, true: Vector, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Angle in radians [B, V, H, W], and ``mask`` without corners that have no normal."""
        # Lengths may be detached: an angle does not change with them.
        length_pred, length_true = (dot(n, n).detach().sqrt() for n in (pred, true))
        mask = mask & (length_pred > self.AREA_FLOOR) & (length_true > self.AREA_FLOOR)
        a, b = _divided(pred, length_pred, mask), _divided(true, length_true, mask)
        normal = cross(a, b)
        # Never exactly 0, where the square root has no gradient; the cosine likewise where nothing counts.
        sine = dot(normal, normal).clamp_min(1e-24).sqrt()
        return torch.atan2(sine, torch.where(mask, dot(a, b), 1.0)), mask


def _along(range_m: Tensor, rays: Tensor) -> Vector:
    """Points relative to each pixel's own ray origin: [B, V, H, W] and [B, V, H, W, 3]."""
    x, y, z = rays.unbind(dim=-1)
    return range_m * x, range_m * y, range_m * z


def _divided(v: Vector, length: Tensor, mask: Tensor) -> Vector:
    """Unit length where ``mask``, elsewhere 0."""
    factor = torch.where(mask, 1 / length.clamp_min(1e-30), 0.0)
    return v[0] * factor, v[1] * factor, v[2] * factor


def _mean_deg(angle: Tensor, mask: Tensor) -> Tensor:
    total = torch.where(mask, angle.detach(), 0.0).sum()
    return torch.rad2deg(total / mask.sum().clamp_min(1))
