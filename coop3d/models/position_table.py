"""Resampling of a learned position table to another patch grid, as two small matrices.

Bicubic resampling is separable: ``out = rows @ table @ columns.T``. The matrices depend on sizes only, so they
are cached while the table itself keeps training; ``inference_mode(False)`` lets those made while predicting serve it.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

CUBIC_A = -0.75
# DINOv2 resamples with scale (n + 0.1) / table size, a guard against rounding that became part of the model.
SIZE_OFFSET = 0.1


def cubic_weights(position: Tensor, size: int, wrap: bool) -> Tensor:
    """Weights of a table of ``size`` entries for bicubic (Keys, a = -0.75) reading at given positions.

    Args:
        position: [...] floating, 0 = first entry.
        size: number of table entries.
        wrap: taps beyond an end continue at the other end; otherwise they repeat the end entry.

    Returns:
        [..., size]; every row sums to 1.
    """
    base = torch.floor(position)
    t = position - base
    a = CUBIC_A
    near = lambda x: ((a + 2) * x - (a + 3)) * x * x + 1  # noqa: E731 - the two pieces of one kernel
    far = lambda x: a * (((x - 5) * x + 8) * x - 4)  # noqa: E731
    taps = torch.stack([far(t + 1), near(t), near(1 - t), far(2 - t)], dim=-1)  # [..., 4]
    index = base.long()[..., None] + torch.arange(-1, 3, device=position.device)
    index = index.remainder(size) if wrap else index.clamp(0, size - 1)
    weights = torch.zeros(*position.shape, size, dtype=position.dtype, device=position.device)
    return weights.scatter_add(-1, index, taps)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def official_axis(length: int, size: int, device: torch.device) -> Tensor:
    """[length, size] float64 matrix of DINOv2's resampling along one axis (with its +0.1)."""
    position = (torch.arange(length, dtype=torch.float64) + 0.5) * size / (length + SIZE_OFFSET) - 0.5
    return cubic_weights(position, size, wrap=False).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def identity_axis(size: int, device: torch.device) -> Tensor:
    """[size, size] float64: an axis that already has the table's length."""
    return torch.eye(size, dtype=torch.float64, device=device)


def periodic_axis(turn: Tensor, size: int) -> Tensor:
    """[..., w, size] matrix reading a table whose ends touch; ``turn`` in [0, 1) is the place on the circle."""
    return cubic_weights(turn * size - 0.5, size, wrap=True)


def column_turns(width: int, device: torch.device) -> Tensor:
    """[width] place on the circle of each patch column's centre, for an upright panorama."""
    return (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width


def ray_turns(rays: Tensor, patch_size: int) -> Tensor:
    """Place on the circle of each patch column, from the azimuth of its known rays.

    Reading the position table there, instead of at the column number, makes a column's code a property of the
    direction it shows: rolling image and rays together only renumbers the tokens.

    Args:
        rays: [..., H, W, 3] unit rays of panoramas; a column has one azimuth.

    Returns:
        [..., w] in [0, 1); 0.5 is forward (z), 0.75 is right (x).
    """
    columns = rays.sum(-3).unflatten(-2, (-1, patch_size)).sum(-2)  # [..., w, 3]
    azimuth = torch.atan2(columns[..., 0], columns[..., 2])
    return (azimuth / (2 * torch.pi) + 0.5).remainder(1.0)


def resample(table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply both matrices to a table.

    Args:
        table: [R, S, C].
        rows: [h, R].
        columns: [..., w, S].

    Returns:
        [..., h * w, C], row-major.
    """
    stretched = torch.einsum("hr,rsc->hsc", rows.to(table), table)
    return torch.einsum("...ws,hsc->...hwc", columns.to(table), stretched).flatten(-3, -2)


def seam_jump(table: Tensor) -> float:
    """How far a table is from a periodic one: the step across its left and right ends, in steps between neighbours.

    Args:
        table: [R, S, C] with S >= 2.

    Returns:
        Root mean square difference of last and first column, over the median of that of neighbouring columns: 1 for a
        periodic table that changes evenly, S - 1 for a ramp from left to right; 0 for a table of equal columns.
    """
    steps = (
        (table.roll(-1, dims=1) - table).detach().float().square().mean(dim=(0, 2)).sqrt()
    )  # the last one is the seam's
    return float(steps[-1] / steps[:-1].median()) if bool(steps.any()) else 0.0


def forget_axes() -> None:
    """Empty the caches, around a context in which tensors are not what they are elsewhere."""
    official_axis.cache_clear()
    identity_axis.cache_clear()
