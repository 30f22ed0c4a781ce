"""Encoders of optional geometric inputs: maps (rays, depth, origins) and vectors (pose, scales)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from coop3d.models.blocks import LAYER_NORM_EPS
from coop3d.models.spatial import WrapConv2d


class ResidualConv(nn.Module):
    """Two 3x3 convolutions beside a shortcut: ``gelu(conv2(gelu(conv1(x))) + shortcut(x))``."""

    def __init__(self, in_dim: int, out_dim: int, wrap: bool) -> None:
        super().__init__()
        self.conv1 = WrapConv2d(in_dim, out_dim, 3, wrap=wrap)
        self.conv2 = WrapConv2d(out_dim, out_dim, 3, wrap=wrap)
        self.shortcut = nn.Conv2d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C', h, w]."""
        return F.gelu(self.conv2(F.gelu(self.conv1(x))) + self.shortcut(x))


class DenseEncoder(nn.Module):
    """A map at image resolution to one normalised vector per patch; knows no positions."""

    def __init__(
        self,
        in_channels: int,
        out_dim: int,
        dims: tuple[int, int, int],
        patch_size: int,
        wrap: bool = False,
    ) -> None:
        super().__init__()
        d0, d1, d2 = dims
        self.patch_size = patch_size
        self.conv_in = WrapConv2d(in_channels * patch_size**2, d0, 3, wrap=wrap)
        self.encoder = nn.Sequential(
            ResidualConv(d0, d1, wrap), ResidualConv(d1, d2, wrap), nn.Conv2d(d2, out_dim, 1)
        )
        self.norm_layer = nn.LayerNorm(out_dim, eps=LAYER_NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, H, W, c] to [N, h * w, Ce]."""
        x = F.pixel_unshuffle(maps.movedim(-1, -3), self.patch_size)
        x = self.encoder(self.conv_in(x))
        return self.norm_layer(x.flatten(2).transpose(1, 2))


class GlobalEncoder(nn.Module):
    """A short vector per view to one normalised vector."""

    def __init__(self, in_dim: int, out_dim: int, dims: tuple[int, int, int]) -> None:
        super().__init__()
        d0, d1, d2 = dims
        first = nn.Sequential(nn.Sequential(nn.Linear(in_dim, d0), nn.GELU()), nn.Linear(d0, d1), nn.GELU())
        # The nesting has no meaning beyond the parameter names of the published checkpoints.
        self.encoder = nn.Sequential(
            nn.Sequential(first, nn.Linear(d1, d2), nn.GELU()), nn.Linear(d2, out_dim)
        )
        self.norm_layer = nn.LayerNorm(out_dim, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[N, c] to [N, Ce]."""
        return self.norm_layer(self.encoder(x))
