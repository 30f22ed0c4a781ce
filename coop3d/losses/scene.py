"""What all terms share: prediction beside truth, unmeasured pixels filled, norms computed once."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from coop3d.geometry import matrix_to_quat
from coop3d.losses.robust import masked_mean
from coop3d.types import FactoredPrediction, ViewTargets

SAME_POSE = 1e-6  # poses are chained from the world in float64: equal ones differ by its round-off at most


def per_pixel(x: Tensor) -> Tensor:
    """[B] to [B, 1, 1, 1]."""
    return x[:, None, None, None]


def per_point(x: Tensor) -> Tensor:
    """[B] to [B, 1, 1, 1, 1]."""
    return x[:, None, None, None, None]


class Scene:
    """One batch of predictions beside its targets; every quantity is computed once, when first asked for.

    Quantities named ``*_range`` and ``*_points`` hold harmless constants (1 m, the origin) outside
    ``valid``, so that arithmetic on them can never produce NaN, neither forward nor backward.

    Args:
        prediction: what the model says.
        targets: what is true, NaN range where that is unknown.
        teacher: what a frozen model says about the same views; only distillation looks at it.
    """

    def __init__(
        self, prediction: FactoredPrediction, targets: ViewTargets, teacher: FactoredPrediction | None = None
    ) -> None:
        if prediction.distance.shape != targets.range_m.shape:
            raise ValueError(
                f"prediction.distance is {tuple(prediction.distance.shape)}, targets.range_m is "
                f"{tuple(targets.range_m.shape)}; both are (batch, views, height, width) of the same batch"
            )
        if teacher is not None and teacher.trans.shape != prediction.trans.shape:
            raise ValueError(
                f"teacher.trans is {tuple(teacher.trans.shape)}, prediction.trans is "
                f"{tuple(prediction.trans.shape)}; the teacher must look at the same views"
            )
        self.prediction = prediction
        self.targets = targets
        self.teacher = None if teacher is None else teacher.detach()

    @property
    def valid(self) -> Tensor:
        """[B, V, H, W] bool: pixels with trustworthy range."""
        return self.targets.valid

    @cached_property
    def view_has_range(self) -> Tensor:
        """[B, V] bool: at least one valid pixel."""
        return self.valid.flatten(2).any(dim=2)

    @cached_property
    def dense(self) -> Tensor:
        """[B, V, H, W] bool: valid pixels of samples whose range is dense and exact, so neighbours compare."""
        return self.valid & per_pixel(self.targets.is_synthetic)

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
    def log_range_error(self) -> Tensor:
        """[B, V, H, W] ``log r - log r*``, blind to units; meaningless where not valid."""
        return torch.log(self.pred_range.clamp_min(1e-6)) - torch.log(self.true_range)

    @cached_property
    def pred_view_points(self) -> Tensor:
        """[B, V, H, W, 3] metres, each view's own frame; 0 where not valid."""
        return torch.where(self.valid[..., None], self.prediction.points_view, 0.0)

    @cached_property
    def true_view_points(self) -> Tensor:
        """[B, V, H, W, 3] metres, each view's own frame; 0 where not valid."""
        return torch.where(self.valid[..., None], self.targets.points_view, 0.0)

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

    @cached_property
    def apart(self) -> Tensor:
        """[B, V, V] bool: pairs of views with a pose between them to find.

        A vehicle's photographs in its own frame have one pose, as a view and itself have.
        """
        T, vehicle = self.targets.T_ref_view, self.targets.vehicle
        equal = (T[:, :, None] - T[:, None]).abs().amax(dim=(-2, -1)) < SAME_POSE
        return ~(equal & (vehicle[:, None] == vehicle))
