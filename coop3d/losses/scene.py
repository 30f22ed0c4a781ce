"""What all terms share: prediction beside truth, unmeasured pixels filled, norms computed once."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from coop3d.geometry import matrix_to_quat
from coop3d.losses.robust import masked_mean
from coop3d.types import FactoredPrediction, ViewTargets


class Scene:
    """One batch of predictions beside its targets; every quantity is computed once, when first asked for.

    Quantities named ``*_range`` and ``*_points`` hold harmless constants (1 m, the origin) outside
    ``valid``, so that arithmetic on them can never produce NaN, neither forward nor backward.
    """

    def __init__(self, prediction: FactoredPrediction, targets: ViewTargets) -> None:
        if prediction.distance.shape != targets.range_m.shape:
            raise ValueError(
                f"prediction.distance is {tuple(prediction.distance.shape)}, targets.range_m is "
                f"{tuple(targets.range_m.shape)}; both are (batch, views, height, width) of the same batch"
            )
        self.prediction = prediction
        self.targets = targets

    @property
    def valid(self) -> Tensor:
        """[B, V, H, W] bool: pixels with trustworthy range."""
        return self.targets.valid

    @cached_property
    def view_has_range(self) -> Tensor:
        """[B, V] bool: at least one valid pixel."""
        return self.valid.flatten(2).any(dim=2)

    @cached_property
    def metric(self) -> Tensor:
        """[B] bool: metric samples with at least one valid pixel."""
        return self.targets.is_metric & self.view_has_range.any(dim=1)

    @cached_property
    def pred_range(self) -> Tensor:
        """[B, V, H, W] metres along the ray; 1 where not valid."""
        return torch.where(self.valid, self.prediction.range_m, 1.0)

    @cached_property
    def true_range(self) -> Tensor:
        """[B, V, H, W] metres along the ray; 1 where not valid."""
        return torch.where(self.valid, self.targets.range_m, 1.0)

    @cached_property
    def pred_points(self) -> Tensor:
        """[B, V, H, W, 3] metres, reference frame; 0 where not valid."""
        return torch.where(self.valid[..., None], self.prediction.points_ref, 0.0)

    @cached_property
    def true_points(self) -> Tensor:
        """[B, V, H, W, 3] metres, reference frame; 0 where not valid."""
        return torch.where(self.valid[..., None], self.targets.points_ref, 0.0)

    @cached_property
    def pred_norm(self) -> Tensor:
        """[B] metres: mean distance of the valid predicted points from the reference centre (1 if none).

        MapAnything divides predictions by the metric scale s and then by the mean norm N_pr of the divided
        points. Points here are ``R (o + s d ray) + s t`` with known metric origins o, so dividing by s
        divides o as well, and both steps together equal one division of the metric quantity by this norm.
        """
        return self._norm(self.pred_points)

    @cached_property
    def true_norm(self) -> Tensor:
        """[B] metres: N_gt, mean distance of the valid true points from the reference centre (1 if none)."""
        return self._norm(self.true_points)

    def _norm(self, points: Tensor) -> Tensor:
        mean = masked_mean(points.norm(dim=-1), self.valid)
        return torch.where(self.view_has_range.any(dim=1), mean.clamp_min(1e-8), 1.0)

    @cached_property
    def pred_trans(self) -> Tensor:
        """[B, V, 3] metres, view centre in the reference frame."""
        return self.prediction.trans * self.prediction.scale[:, None, None]

    @cached_property
    def true_trans(self) -> Tensor:
        """[B, V, 3] metres, view centre in the reference frame."""
        return self.targets.T_ref_view[..., :3, 3]

    @cached_property
    def true_quat(self) -> Tensor:
        """[B, V, 4] unit, xyzw, view to reference."""
        return matrix_to_quat(self.targets.T_ref_view[..., :3, :3])
