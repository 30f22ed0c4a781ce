"""What the heads' raw numbers mean: unit rays, positive distances, unit quaternions, positive scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-8


class DensePrediction(NamedTuple):
    """Per pixel."""

    rays: Tensor  # [..., H, W, 3] unit
    distance: Tensor  # [..., H, W] > 0
    confidence: Tensor  # [..., H, W] >= 1
    mask_logits: Tensor  # [..., H, W]


def bounded_exp(raw: Tensor, log_limit: float | None) -> Tensor:
    """exp, optionally of the argument clipped to +-``log_limit``: float32 overflows at 88.7."""
    return torch.exp(raw if log_limit is None else raw.clamp(-log_limit, log_limit))


def adapt_dense(raw: Tensor, log_limit: float | None) -> DensePrediction:
    """[..., 6, H, W] = ray x, y, z, log-distance, log(confidence - 1), mask logit."""
    # Of a split, not slices: each slice's gradient would be a map of zeros, added to the other's.
    vectors, others = raw.split(3, dim=-3)
    vectors = vectors.movedim(-3, -1)
    rays = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(EPS)
    log_distance, log_confidence, logits = others.unbind(-3)
    return DensePrediction(
        rays, bounded_exp(log_distance, log_limit), 1 + bounded_exp(log_confidence, log_limit), logits
    )


def adapt_quaternion(raw_xyzw: Tensor) -> Tensor:
    """[..., 4] to unit length. Its sign stays as predicted."""
    return raw_xyzw / raw_xyzw.norm(dim=-1, keepdim=True).clamp_min(EPS)


def adapt_scale(raw: Tensor, log_limit: float | None) -> Tensor:
    """[B] log-scale to metres per unit."""
    return bounded_exp(raw, log_limit).clamp_min(EPS)
