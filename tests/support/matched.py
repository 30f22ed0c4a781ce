"""Descriptors that encode places in the world, so that the right matches are known."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from coop3d.geometry.cells import at_cells
from coop3d.types import CoopBatch, FactoredPrediction


def with_place_codes(
    prediction: FactoredPrediction, truth: CoopBatch, grid: tuple[int, int], blind: tuple[int, ...] = ()
) -> FactoredPrediction:
    """Every cell's descriptor says where its surface truly is, but for those of the ``blind`` views: they are noise."""
    places = at_cells(truth.targets.points_ref[0], grid, 1)  # [V, N, 3]
    g = torch.Generator().manual_seed(0)
    waves = torch.randn(3, 128, generator=g) * torch.tensor([0.35, 1.0, 0.35])[:, None]
    phase = 6.283 * torch.rand(128, generator=g)
    codes = torch.cos(places.nan_to_num(0.0) @ waves + phase) * (2 / 128) ** 0.5  # random Fourier features
    codes[~torch.isfinite(places[..., 0])] = 0
    for v in blind:
        codes[v] = torch.randn(codes.shape[1:], generator=g) / 128**0.5
    descriptors = (60**0.5 * codes).unflatten(1, grid)[None]
    return replace(prediction, descriptors=descriptors, seen_logits=torch.full(descriptors.shape[:-1], 4.0))


def position_errors(found: FactoredPrediction, truth: CoopBatch) -> Tensor:
    """[V] metres."""
    return (found.T_ref_view - truth.targets.T_ref_view)[0, :, :3, 3].norm(dim=-1)
