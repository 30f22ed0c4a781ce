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


def _of_samples(error: Tensor, counts: Tensor) -> TermValue:
    """One value per sample, [B] and [B] bool."""
    return TermValue.over(error[:, None], counts[:, None])


class ScaleTerm(RobustTerm):
    """MapAnything's scale term, metric samples: ``rho(log1p(N_met) - log1p(N_gt))``, norms in metres."""

    def __call__(self, scene: Scene) -> TermValue:
        error = torch.log1p(metric_norm(scene)) - torch.log1p(scene.true_norm)
        return _of_samples(self.penalty(error.square()), scene.metric)


class LogScaleTerm(Term):
    """``|log(s / s*)|`` on metric samples, where ``s* = N_gt / N(X / s)`` makes the mean distance right.

    The same factor costs the same at every scene size, and 0.1 reads as "10 % off".
    """

    def __call__(self, scene: Scene) -> TermValue:
        error = torch.log(metric_norm(scene)) - torch.log(scene.true_norm)
        return _of_samples(error.abs(), scene.metric)


class MedianScaleTerm(Term):
    """``|log(s / s*)|`` on metric samples, where ``s* = 1 / median(d / r*)`` makes the median range right.

    The median over the valid pixels of all views ignores what is wrong in less than half of them: edges,
    passing cars, far background. Ranges, not points: known metric ray origins do not scale with ``s``.
    """

    def __call__(self, scene: Scene) -> TermValue:
        scale = scene.prediction.scale
        ratio = torch.where(scene.valid, scene.log_range_error.detach(), torch.nan).flatten(1)
        median = ratio.nanmedian(dim=1).values  # NaN where nothing is valid
        away = torch.where(scene.metric, median, 0.0) + (scale.log() - scale.log().detach())
        return _of_samples(away.abs(), scene.metric)
