"""Dense terms: range, rays and points. Normalised ones follow MapAnything; metric ones compare metres."""

from __future__ import annotations

import torch
from torch import Tensor

from coop3d.losses.robust import (
    check_robust,
    keep_smallest,
    log_map,
    masked_mean,
    robust,
    squared_distance,
)
from coop3d.losses.scene import Scene, per_pixel, per_point
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


class DenseTerm(RobustTerm):
    """A penalty per valid pixel.

    Args:
        weight: weight in the sum.
        c: error at which the penalty leaves its quadratic part.
        alpha: shape of the penalty, see `robust`.
        exclude_top_percent: largest errors to leave out, per view, of samples that are not ``is_synthetic``:
            measured depth is wrong at edges, rendered depth is not.
    """

    def __init__(
        self, weight: float = 1.0, c: float = 0.05, alpha: float = 0.5, exclude_top_percent: float = 0.0
    ) -> None:
        super().__init__(weight, c, alpha)
        if not 0 <= exclude_top_percent < 100:
            raise ValueError(f"exclude_top_percent is {exclude_top_percent}, expected 0 <= percent < 100")
        self.exclude_top_percent = exclude_top_percent

    def kept(self, scene: Scene, penalty: Tensor, mask: Tensor) -> Tensor:
        """``mask`` without the excluded pixels: [B, V, H, W]."""
        kept = keep_smallest(penalty, mask, self.exclude_top_percent)
        return torch.where(per_pixel(scene.targets.is_synthetic), mask, kept)

    def value(self, scene: Scene, penalty: Tensor, mask: Tensor) -> TermValue:
        """The penalty [B, V, H, W] over the pixels that stay."""
        return TermValue.over(penalty, self.kept(scene, penalty, mask))


class RangeTerm(DenseTerm):
    """Range along the ray up to scale: ``rho(log1p(r / N_pr) - log1p(r* / N_gt))`` on valid pixels."""

    def __call__(self, scene: Scene) -> TermValue:
        pred = torch.log1p(scene.pred_range / per_pixel(scene.pred_norm))
        true = torch.log1p(scene.true_range / per_pixel(scene.true_norm))
        return self.value(scene, self.penalty((pred - true).square()), scene.valid)


class MetricRangeTerm(DenseTerm):
    """Range along the ray in metres: ``rho(log r - log r*)`` on valid pixels of metric samples.

    A factor, not an offset, is what is penalised: 5 % too far costs the same at 3 m and at 80 m.
    """

    def __call__(self, scene: Scene) -> TermValue:
        penalty = self.penalty(scene.log_range_error.square())
        return self.value(scene, penalty, scene.valid & per_pixel(scene.metric))


class RayTerm(RobustTerm):
    """Unit ray directions, every pixel: ``rho(d - d*)``, no logarithm.

    Uses ``prediction.predicted_rays`` where a model has them beside the known rays it composes points with;
    otherwise ``prediction.rays``, for which the term is exactly 0 if they are the known ones.
    """

    def __call__(self, scene: Scene) -> TermValue:
        predicted = scene.prediction.predicted_rays
        rays = scene.prediction.rays if predicted is None else predicted
        penalty = self.penalty(squared_distance(rays, scene.targets.rays))  # [B, V, H, W]
        return TermValue.over(penalty, torch.ones_like(scene.valid))


class ViewPointsTerm(DenseTerm):
    """Points in each view's own frame, up to scale: ``rho(l(x / N_pr) - l(x* / N_gt))``, l the log map."""

    def __call__(self, scene: Scene) -> TermValue:
        pred = scene.pred_view_points / per_point(scene.pred_norm)
        true = scene.true_view_points / per_point(scene.true_norm)
        return self.value(scene, self.penalty(squared_distance(log_map(pred), log_map(true))), scene.valid)


class PointsTerm(DenseTerm):
    """Points in the reference frame up to scale, weighted by confidence.

    ``conf * rho(l(X / N_pr) - l(X* / N_gt)) - confidence_alpha * log conf``, l the log map. The best
    confidence at a pixel is ``confidence_alpha / rho``, so the term can be negative; its geometric part is
    logged as the statistic ``geometry``. With ``confidence_alpha: null`` confidence is left out.

    With ``confidence_weighs: false`` confidence learns how large the penalty is and does not weigh it:
    ``rho + conf sg(rho) / confidence_alpha - log conf``, sg stops the gradient (faithful heteroscedastic
    regression, Stirn et al. 2023). Geometry then learns as without confidence, from easy and hard pixels alike;
    and confidence has the same best value.
    """

    def __init__(
        self,
        weight: float = 1.0,
        c: float = 0.05,
        alpha: float = 0.5,
        confidence_alpha: float | None = 0.2,
        exclude_top_percent: float = 0.0,
        confidence_weighs: bool = True,
    ) -> None:
        super().__init__(weight, c, alpha, exclude_top_percent)
        if confidence_alpha is not None and not confidence_alpha >= 0:
            raise ValueError(f"confidence_alpha is {confidence_alpha}, expected a number >= 0 or null")
        if not confidence_weighs and not confidence_alpha:
            raise ValueError(
                f"confidence_alpha is {confidence_alpha}, but confidence_weighs=false needs one > 0: the penalty "
                "of a pixel of confidence 1"
            )
        self.confidence_alpha, self.confidence_weighs = confidence_alpha, confidence_weighs

    def __call__(self, scene: Scene) -> TermValue:
        pred = scene.pred_points / per_point(scene.pred_norm)
        true = scene.true_points / per_point(scene.true_norm)
        return self._weighted(scene, pred, true, scene.valid)

    def _weighted(self, scene: Scene, pred: Tensor, true: Tensor, mask: Tensor) -> TermValue:
        penalty = self.penalty(squared_distance(log_map(pred), log_map(true)))  # [B, V, H, W]
        mask = self.kept(scene, penalty, mask)
        statistics = {"geometry": masked_mean(penalty.detach(), mask).mean()}
        if self.confidence_alpha is None:
            return TermValue.over(penalty, mask, statistics)
        confidence = torch.where(mask, scene.prediction.confidence, 1.0)
        if self.confidence_weighs:
            weighted = penalty * confidence - self.confidence_alpha * torch.log(confidence)
        else:
            expected = confidence * penalty.detach() / self.confidence_alpha
            weighted = penalty + expected - torch.log(confidence)
        statistics["confidence"] = masked_mean(confidence.detach(), mask).mean()
        return TermValue.over(weighted, mask, statistics)


class MetricPointsTerm(PointsTerm):
    """Points in the reference frame in metres, weighted by confidence; metric samples only.

    As `PointsTerm` without the division by the norms: ``l`` compresses metres, ``log(1 + |X|)``.
    """

    def __call__(self, scene: Scene) -> TermValue:
        mask = scene.valid & per_pixel(scene.metric)
        return self._weighted(scene, scene.pred_points, scene.true_points, mask)


class MetricViewPointsTerm(PointsTerm):
    """Points in each view's own frame in metres, weighted by confidence; metric samples only.

    For models whose pose comes from matches: confidence then speaks of range, not of a pose that is not used.
    """

    def __call__(self, scene: Scene) -> TermValue:
        mask = scene.valid & per_pixel(scene.metric)
        return self._weighted(scene, scene.pred_view_points, scene.true_view_points, mask)
