"""Penalties, the signed logarithm, masked means and the exclusion of the largest errors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def robust(squared_error: Tensor, c: float, alpha: float) -> Tensor:
    """Barron's general robust penalty of a squared error, element by element.

    ``|alpha - 2| / alpha * (((e / c)^2 / |alpha - 2| + 1)^(alpha / 2) - 1)``. MapAnything uses ``alpha =
    0.5``, ``c = 0.05``: ``3 ((e^2 / c^2 / 1.5 + 1)^(1/4) - 1)``. ``alpha = 1`` is the convex pseudo-Huber
    penalty, about ``|e| / c`` for large errors. Takes the *squared* error, so that the gradient at zero is
    zero, not NaN.

    J. T. Barron, "A General and Adaptive Robust Loss Function", CVPR 2019, eq. 1 (alpha other than 0 and 2).
    """
    b = abs(alpha - 2.0)
    return (b / alpha) * ((squared_error / (c * c * b) + 1.0) ** (alpha / 2.0) - 1.0)


def check_robust(c: float, alpha: float) -> None:
    """Raise ValueError where :func:`robust` is not defined."""
    if not c > 0:
        raise ValueError(f"robust penalty: c is {c}, expected a positive scale")
    if alpha in (0.0, 2.0):
        raise ValueError(f"robust penalty: alpha is {alpha}; 0 and 2 are limits, choose a value near them")


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distance over the last axis: [..., C] and [..., C] to [...]."""
    return (a - b).square().sum(dim=-1)


def log_map(x: Tensor) -> Tensor:
    """Vectors [..., C] to ``x / |x| * log(1 + |x|)``: direction kept, length compressed; zero stays zero.

    MapAnything's loss in log space. The ratio ``log1p(n) / n`` is evaluated at ``n >= 1e-8``, so both the
    value and the gradient at the origin are those of the identity.
    """
    norm = x.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    return x * (torch.log1p(norm) / norm)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Per-sample mean of ``values`` where ``mask``: [B, ...] to [B]; 0 (with zero gradient) where none is.

    ``values`` must be finite outside the mask too: fill the *inputs* of whatever produced them, since a NaN
    that is masked here still reaches the gradient as 0 * NaN.
    """
    count = mask.flatten(1).sum(dim=1).clamp_min(1)
    return torch.where(mask, values, torch.zeros_like(values)).flatten(1).sum(dim=1) / count


def keep_smallest(values: Tensor, mask: Tensor, drop_percent: float) -> Tensor:
    """The mask without the ``drop_percent`` largest values of each row: [..., H, W] and bool to bool.

    A row is one image. ``floor(n (100 - drop_percent) / 100)`` of its n masked pixels stay, so a single one
    goes. Only the dropped share is ever sorted. MapAnything's "exclude top n percent".
    """
    if drop_percent == 0:
        return mask
    flat = mask.flatten(-2)
    ranked = torch.where(flat, values.detach().flatten(-2), -torch.inf)
    n = flat.sum(dim=-1, keepdim=True)
    dropped = n - torch.floor(n.double() * (100 - drop_percent) / 100).long()  # [..., 1]
    most = min(math.ceil(flat.shape[-1] * drop_percent / 100) + 1, flat.shape[-1])  # no row drops more
    largest = ranked.topk(most, dim=-1).indices
    stays = torch.arange(most, device=mask.device) >= dropped  # [..., most]
    return (flat & torch.ones_like(flat).scatter(-1, largest, stays)).unflatten(-1, mask.shape[-2:])
