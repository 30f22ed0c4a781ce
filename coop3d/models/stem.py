"""A small convolutional network in place of DINOv2's linear patch projection, for models that train from nothing."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from coop3d.models.spatial import WrapConv2d

FIRST_STRIDE = 4


class NormConv(nn.Module):
    """3x3 convolution and normalisation over the whole image; exposure differs between cameras and vehicles."""

    def __init__(self, dim: int, wrap: bool) -> None:
        super().__init__()
        self.conv = WrapConv2d(dim, dim, 3, wrap=wrap)
        self.norm = nn.GroupNorm(1, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C, h, w]."""
        return self.norm(self.conv(x))


class StemBlock(nn.Module):
    """``gelu(x + norm(conv(gelu(norm(conv(x))))))``."""

    def __init__(self, dim: int, wrap: bool) -> None:
        super().__init__()
        self.conv1 = NormConv(dim, wrap)
        self.conv2 = NormConv(dim, wrap)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C, h, w]."""
        return F.gelu(x + self.conv2(F.gelu(self.conv1(x))))


class ConvStem(nn.Module):
    """Images to patch tokens, and to a finer map that the matching head reads.

    Strides are whole blocks of pixels (4, then 2, 2, ...), so that every feature is centred on what it stands for
    and rolling a panorama by whole patches rolls the tokens. Convolutions before a transformer make training
    from nothing several times shorter (Xiao et al., "Early convolutions help transformers see better", 2021).

    Args:
        dims: width of each level; the last is the finer map, at half the patch size.
        out_dim: width of the tokens.
        wrap: left and right image borders touch.
    """

    def __init__(self, dims: tuple[int, ...], out_dim: int, wrap: bool) -> None:
        super().__init__()
        levels: list[nn.Module] = []
        for k, (before, width) in enumerate(zip((3, *dims[:-1]), dims, strict=True)):
            stride = 2 if k else FIRST_STRIDE
            levels += [nn.Conv2d(before, width, stride, stride), nn.GroupNorm(1, width), nn.GELU()]
            levels += [StemBlock(width, wrap) for _ in range(2 if k == len(dims) - 1 else 1)]
        self.levels = nn.Sequential(*levels)
        self.proj = nn.Conv2d(dims[-1], out_dim, 2, 2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, H, W] to tokens [N, h * w, Ce] and the finer map [N, dims[-1], 2 h, 2 w]."""
        fine = self.levels(image)
        return self.proj(fine).flatten(2).transpose(1, 2), fine


def stem_patch_size(dims: tuple[int, ...]) -> int:
    """Pixels per token side of a `ConvStem`."""
    return FIRST_STRIDE * 2 ** len(dims)
