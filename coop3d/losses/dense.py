"""Dense terms: range, rays and points. Normalised ones follow MapAnything; metric ones compare metres."""

from __future__ import annotations

import torch
from torch import Tensor

from coop3d.losses.robust import check_robust, log_map, masked_mean, robust, squared_distance
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue


class RobustTerm(Term):
    """A term with a robust penalty; the defaults are MapAnything's."""

    def __init__(self, weight: float = 1.0, c: float = 0.05, alpha: float = 0.5) -> None:
        super().__init__(weight)
        check_robust(c, alpha)
        self.c, self.alpha = c, alpha

    def penalty(self, squared_error: Tensor) -> Tensor:
        """Robust penalty of a squared error, element by element."""
        return robust(squared_error, self.c, self.alpha)


class RangeTerm(RobustTerm):
    """Range along the ray up to scale: ``rho(log1p(r / N_pr) - log1p(r* / N_gt))`` on valid pixels."""

    def __call__(self, scene: Scene) -> TermValue:
        pred = torch.log1p(scene.pred_range / _per_pixel(scene.pred_norm))
        true = torch.log1p(scene.true_range / _per_pixel(scene.true_norm))
        return TermValue(masked_mean(self.penalty((pred - true).square()), scene.valid))


class MetricRangeTerm(RobustTerm):
    """Range along the ray in metres: ``rho(log r - log r*)`` on valid pixels of metric samples.

    A factor, not an offset, is what is penalised: 5 % too far costs the same at 3 m and at 80 m.
    """

    def __call__(self, scene: Scene) -> TermValue:
        error = torch.log(scene.pred_range.clamp_min(1e-6)) - torch.log(scene.true_range)
        return TermValue(masked_mean(self.penalty(error.square()), scene.valid & _per_pixel(scene.metric)))


class RayTerm(RobustTerm):
    """Unit ray directions, every pixel: ``rho(d - d*)``, no logarithm.

    Uses ``prediction.predicted_rays`` where a model has that field beside the known rays it composes points
    with; otherwise ``prediction.rays``, for which the term is exactly 0 if they are the known ones.
    """

    def __call__(self, scene: Scene) -> TermValue:
        predicted = getattr(scene.prediction, "predicted_rays", None)
        rays = scene.prediction.rays if predicted is None else predicted
        penalty = self.penalty(squared_distance(rays, scene.targets.rays))  # [B, V, H, W]
        return TermValue(penalty.flatten(1).mean(dim=1))


class ViewPointsTerm(RobustTerm):
    """Points in each view's own frame, up to scale: ``rho(l(x / N_pr) - l(x* / N_gt))``, l the log map."""

    def __call__(self, scene: Scene) -> TermValue:
        valid = scene.valid[..., None]
        pred = torch.where(valid, scene.prediction.points_view, 0.0) / _per_point(scene.pred_norm)
        true = torch.where(valid, scene.targets.points_view, 0.0) / _per_point(scene.true_norm)
        penalty = self.penalty(squared_distance(log_map(pred), log_map(true)))
        return TermValue(masked_mean(penalty, scene.valid))


class PointsTerm(RobustTerm):
    """Points in the reference frame up to scale, weighted by confidence.

    ``conf * rho(l(X / N_pr) - l(X* / N_gt)) - confidence_alpha * log conf``, l the log map. The best
    confidence at a pixel is ``confidence_alpha / rho``, so the term can be negative; its geometric part is
    logged as the statistic ``geometry``.
    """

    def __init__(
        self, weight: float = 1.0, c: float = 0.05, alpha: float = 0.5, confidence_alpha: float = 0.2
    ) -> None:
        super().__init__(weight, c, alpha)
        if confidence_alpha < 0:
            raise ValueError(f"confidence_alpha is {confidence_alpha}, expected a number >= 0")
        self.confidence_alpha = confidence_alpha

    def __call__(self, scene: Scene) -> TermValue:
        pred = scene.pred_points / _per_point(scene.pred_norm)
        true = scene.true_points / _per_point(scene.true_norm)
        return self._weighted(scene, pred, true, scene.valid)

    def _weighted(self, scene: Scene, pred: Tensor, true: Tensor, mask: Tensor) -> TermValue:
        penalty = self.penalty(squared_distance(log_map(pred), log_map(true)))  # [B, V, H, W]
        confidence = torch.where(mask, scene.prediction.confidence, 1.0)
        weighted = penalty * confidence - self.confidence_alpha * torch.log(confidence)
        statistics = {
            "geometry": masked_mean(penalty.detach(), mask).mean(),
            "confidence": masked_mean(confidence.detach(), mask).mean(),
        }
        return TermValue(masked_mean(weighted, mask), statistics)


class MetricPointsTerm(PointsTerm):
    """Points in the reference frame in metres, weighted by confidence; metric samples only.

    As `PointsTerm` without the division by the norms: ``l`` compresses metres, ``log(1 + |X|)``.
    """

    def __call__(self, scene: Scene) -> TermValue:
        mask = scene.valid & _per_pixel(scene.metric)
        return self._weighted(scene, scene.pred_points, scene.true_points, mask)


def _per_pixel(x: Tensor) -> Tensor:
    """[B] to [B, 1, 1, 1]."""
    return x[:, None, None, None]


def _per_point(x: Tensor) -> Tensor:
    """[B] to [B, 1, 1, 1, 1]."""
    return x[:, None, None, None, None]
