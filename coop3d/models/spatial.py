"""Convolution and upsampling on images whose left and right borders may touch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop3d.models.convolution import Window, conv2d


def wrap_columns(x: Tensor, margin: int) -> Tensor:
    """[..., W] to [..., W + 2 margin]: each side continued by the opposite one, turns repeated if narrow."""
    W = x.shape[-1]
    if 2 * margin <= W:
        # Of a split, not slices: each slice's gradient would be a whole image of zeros, added to the others.
        left, middle, right = x.split([margin, W - 2 * margin, margin], dim=-1)
        return torch.cat([right, left, middle, right, left], dim=-1)
    index = torch.arange(-margin, W + margin, device=x.device).remainder(W)
    return x[..., index]


class WrapConv2d(nn.Conv2d):
    """Convolution with zero padding above and below and, if ``wrap``, circular padding left and right.

    ``wrap`` changes no parameter, so weights of the plain convolution fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        wrap: bool = False,
        stride: tuple[int, int] = (1, 1),
        column_dilation: int = 1,
        bias: bool = True,
    ) -> None:
        margins = (kernel_size // 2, kernel_size // 2 * column_dilation)  # rows, columns
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=margins,
            dilation=(1, column_dilation),
            bias=bias,
        )
        self.wrapped_columns = margins[1] if wrap else 0
        self.window = Window(stride, (margins[0], margins[1] - self.wrapped_columns), (1, column_dilation))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        if self.wrapped_columns:
            x = wrap_columns(x, self.wrapped_columns)
        return conv2d(x, self.weight, self.bias, self.window)


def upsample(x: Tensor, size: tuple[int, int], wrap: bool) -> Tensor:
    """Bilinear [N, C, H, W] to [N, C, *size].

    Rows always follow the official ``align_corners=True``. Columns do too, unless ``wrap``: then pixel areas
    correspond (``align_corners=False``) on a circle, the only rule under which a roll of the input by whole
    pixels is a roll of the output.
    """
    if not wrap:
        return F.interpolate(x, size, mode="bilinear", align_corners=True)
    H, W = x.shape[-2:]
    if size[0] != H:
        x = F.interpolate(x, (size[0], W), mode="bilinear", align_corners=True)
    if size[1] == W:
        return x
    margin = W // math.gcd(W, size[1])  # fewest columns that become a whole number of output columns
    crop = margin * size[1] // W
    wide = F.interpolate(
        wrap_columns(x, margin), (size[0], size[1] + 2 * crop), mode="bilinear", align_corners=False
    )
    return wide[..., crop : crop + size[1]]
