"""Metric scale terms. Their gradient reaches the scale head only: geometry before scale is detached."""

from __future__ import annotations

import torch
from torch import Tensor

from coop3d.losses.dense import RobustTerm
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue


def metric_norm(scene: Scene) -> Tensor:
    """[B] metres: mean distance of the predicted points, ``s * detach(N(X / s))``; gradient in s only."""
    scale = scene.prediction.scale
    return scale * (scene.pred_norm / scale).detach()


class ScaleTerm(RobustTerm):
    """MapAnything's scale term, metric samples: ``rho(log1p(N_met) - log1p(N_gt))``, norms in metres."""

    def __call__(self, scene: Scene) -> TermValue:
        error = torch.log1p(metric_norm(scene)) - torch.log1p(scene.true_norm)
        return TermValue(torch.where(scene.metric, self.penalty(error.square()), 0.0))


class LogScaleTerm(Term):
    """``|log(s / s*)|`` on metric samples, where ``s* = N_gt / N(X / s)`` makes the mean distance right.

    The same factor costs the same at every scene size, and 0.1 reads as "10 % off".
    """

    def __call__(self, scene: Scene) -> TermValue:
        error = torch.log(metric_norm(scene)) - torch.log(scene.true_norm)
        return TermValue(torch.where(scene.metric, error.abs(), 0.0))
