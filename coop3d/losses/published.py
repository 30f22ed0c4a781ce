"""MapAnything's normal and gradient-matching formulas as published, to compare numbers with.

Not for training on panoramas: both treat the image as a plain photograph (no seam, no source cameras), the
first saturates on near or finely sampled surfaces, the second matches z, which is negative behind the vehicle.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from coop3d.losses.neighbours import Vector, corner_mask, corner_normals, cross, dot, image_neighbours
from coop3d.losses.normal import rounded_angle
from coop3d.losses.robust import log_map
from coop3d.losses.scene import Scene, per_point
from coop3d.losses.term import Term, TermValue


class PublishedNormalTerm(Term):
    """Angle between normals of view points divided by their norm, clamped to 1 to 90 degrees.

    ``atan2(|n x n*| + 1e-12, n . n*)`` on normals that are *not* of unit length: ``n . n*`` goes with the
    fourth power of the edges, so the absolute 1e-12 wins once edges are below a thousandth of the scene's
    norm. The angle then tends to 90 degrees, whatever the surface, and the gradient to zero. The
    sum over corners is divided by ``4 max(H, W)`` times the number of cells with at least one valid corner.
    """

    SINE_OFFSET = 1e-12

    def __call__(self, scene: Scene) -> TermValue:
        pred = corner_normals(_planes(scene.pred_view_points / per_point(scene.pred_norm)))
        true = corner_normals(_planes(scene.true_view_points / per_point(scene.true_norm)))
        mask = corner_mask(image_neighbours(scene.targets).within(scene.dense))
        angle = torch.stack([self._angle(p, t) for p, t in zip(pred, true, strict=True)], dim=2)
        angle = rounded_angle(angle.clamp(math.radians(1), math.radians(90)))
        sums = torch.where(mask, angle, 0.0).flatten(2).sum(dim=2, keepdim=True)  # [B, V, 1]
        cells = mask.any(dim=2).flatten(2).sum(dim=2, keepdim=True).to(angle.dtype)
        return TermValue(sums / (4 * max(mask.shape[-2:])), cells)

    def _angle(self, pred: Vector, true: Vector) -> Tensor:
        sine = torch.stack(cross(pred, true), dim=-1).norm(dim=-1) + self.SINE_OFFSET
        return torch.atan2(sine, dot(pred, true))


def _planes(points: Tensor) -> Vector:
    """[..., 3] to one tensor per coordinate."""
    x, y, z = points.unbind(dim=-1)
    return x, y, z


class PublishedGradientMatchingTerm(Term):
    """``|e(p + 1) - e(p)|``, ``e = l(z / N_pr) - l(z* / N_gt)``, on every 1st, 2nd, 4th, 8th row and column.

    ``l(z) = sign(z) log(1 + |z|)``. Each difference is cut at 100; the sum over horizontal and vertical pairs
    is divided by the number of valid *pixels* of its level, and the levels are added.
    """

    STEPS = (1, 2, 4, 8)
    CUT = 100.0

    def __call__(self, scene: Scene) -> TermValue:
        pred = log_map(scene.pred_view_points[..., 2:] / per_point(scene.pred_norm))
        true = log_map(scene.true_view_points[..., 2:] / per_point(scene.true_norm))
        error = (pred - true).squeeze(-1)
        return TermValue.joined([self._level(error, scene.dense, step) for step in self.STEPS])

    def _level(self, error: Tensor, valid: Tensor, step: int) -> TermValue:
        error, valid = error[..., ::step, ::step], valid[..., ::step, ::step]
        sums = error.new_zeros(error.shape[:2])
        for dim in (-1, -2):
            n = error.shape[dim] - 1
            both = valid.narrow(dim, 0, n) & valid.narrow(dim, 1, n)
            difference = error.diff(dim=dim).abs().clamp_max(self.CUT)
            sums = sums + torch.where(both, difference, 0.0).flatten(2).sum(dim=2)
        return TermValue(sums[..., None], valid.flatten(2).sum(dim=2)[..., None].to(error.dtype))
