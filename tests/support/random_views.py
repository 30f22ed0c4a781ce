"""Small random views for loss and metric tests: targets, what reproduces them, and a random prediction."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from coop3d.geometry import matrix_to_quat, quat_normalize, transform_from_quat_trans
from coop3d.types import FactoredPrediction, ViewTargets


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def random_targets(
    seed: int = 0,
    B: int = 2,
    V: int = 2,
    H: int = 3,
    W: int = 5,
    valid_fraction: float = 0.7,
    dtype: torch.dtype = torch.float64,
) -> ViewTargets:
    """Random geometry; range is NaN wherever it is not valid."""
    g = torch.Generator().manual_seed(seed)
    shape = (B, V, H, W)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    valid = torch.rand(shape, generator=g) < valid_fraction
    range_m = torch.where(valid, 5 + 10 * torch.rand(shape, generator=g).double(), torch.nan)
    T = transform_from_quat_trans(quat_normalize(normal(B, V, 4)), 10 * normal(B, V, 3))
    T[:, 0] = torch.eye(4)
    return ViewTargets(
        range_m=range_m.to(dtype),
        rays=unit(normal(*shape, 3)).to(dtype),
        origins=normal(*shape, 3).to(dtype),
        covered=torch.ones(shape, dtype=torch.bool),
        valid=valid,
        non_ambiguous=valid | (torch.rand(shape, generator=g) < 0.3),
        mask_known=torch.rand(shape, generator=g) < 0.8,
        source=torch.zeros(shape, dtype=torch.uint8),
        T_ref_view=T.to(dtype),
        is_metric=torch.ones(B, dtype=torch.bool),
        is_synthetic=torch.ones(B, dtype=torch.bool),
        vehicle=torch.arange(V),
    )


def perfect_prediction(targets: ViewTargets, scale: float = 7.0) -> FactoredPrediction:
    """Reproduces the targets; unmeasured pixels get an arbitrary finite distance, confidence is 1."""
    distance = torch.where(targets.valid, targets.range_m, 3.0) / scale
    return FactoredPrediction(
        rays=targets.rays,
        distance=distance,
        trans=targets.T_ref_view[..., :3, 3] / scale,
        quat_xyzw=matrix_to_quat(targets.T_ref_view[..., :3, :3]),
        scale=torch.full(distance.shape[:1], scale, dtype=distance.dtype),
        confidence=torch.ones_like(distance),
        mask_logits=torch.where(targets.non_ambiguous, 30.0, -30.0).to(distance.dtype),
        origins=targets.origins,
    )


def random_prediction(targets: ViewTargets, seed: int = 1) -> FactoredPrediction:
    """Finite everywhere and nowhere near the truth; every leaf a model could own requires grad."""
    g = torch.Generator().manual_seed(seed)
    shape, dtype = targets.range_m.shape, targets.range_m.dtype

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64).to(dtype)

    prediction = FactoredPrediction(
        rays=unit(normal(*shape, 3)),
        distance=torch.exp(0.3 * normal(*shape)),
        trans=normal(*shape[:2], 3),
        quat_xyzw=quat_normalize(normal(*shape[:2], 4)),
        scale=torch.exp(1 + 0.3 * normal(shape[0])),
        confidence=1 + torch.exp(normal(*shape)),
        mask_logits=normal(*shape),
        origins=targets.origins,
    )
    return replace(prediction, **{name: getattr(prediction, name).requires_grad_() for name in LEAVES})


LEAVES = ("rays", "distance", "trans", "quat_xyzw", "scale", "confidence", "mask_logits")
