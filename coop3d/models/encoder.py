"""DINOv2 vision transformer that turns each image into patch tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from coop3d.models.blocks import LAYER_NORM_EPS, Block, at_least_float32
from coop3d.models.config import EncoderConfig
from coop3d.models.position_table import (
    column_turns,
    identity_axis,
    official_axis,
    periodic_axis,
    resample,
)
from coop3d.models.recompute import run_block
from coop3d.models.stem import ConvStem


class EncoderOutput(NamedTuple):
    """Tokens of every image."""

    patches: Tensor  # [N, h * w, Ce], row-major
    cls: Tensor  # [N, Ce]
    fine: Tensor | None = None  # [N, C, 2 h, 2 w] of a convolutional stem


class PatchEmbed(nn.Module):
    """Non-overlapping patches to vectors."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        """[N, 3, H, W] to [N, h * w, Ce]; there is no finer map."""
        return self.proj(image).flatten(2).transpose(1, 2), None


class VisionTransformer(nn.Module):
    """The transformer under the name the checkpoints give it (``encoder.model``)."""

    def __init__(self, config: EncoderConfig, wrap_around: bool) -> None:
        super().__init__()
        C = config.embed_dim
        self.config = config
        self.wrap_around = wrap_around
        self.cls_token = nn.Parameter(torch.zeros(1, 1, C))
        rows, columns = config.position_grid
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, C))
        self.patch_embed: PatchEmbed | ConvStem = (
            ConvStem(config.stem_dims, C, wrap_around)
            if config.stem_dims
            else PatchEmbed(config.patch_size, C)
        )
        self.blocks = nn.ModuleList(
            Block(C, config.num_heads, config.mlp, config.layer_scale_init) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(C, eps=LAYER_NORM_EPS) if config.final_norm else nn.Identity()

    def position_table(self) -> Tensor:
        """[R, S, Ce] learned codes of the patches, without that of the class token."""
        return at_least_float32(self.pos_embed[0, 1:]).unflatten(0, self.config.position_grid)

    def position_codes(self, h: int, w: int, turns: Tensor | None) -> Tensor:
        """Position table on an h x w grid: [1 or N, h * w, Ce].

        The learned grid itself is used unchanged; every other size is resampled as DINOv2 does. With
        ``wrap_around`` columns are read on a circle, at ``turns`` [N, w] where given.
        """
        rows, columns = self.config.position_grid
        table = self.position_table()
        device = table.device
        native = (h, w) == (rows, columns)
        row_axis = identity_axis(h, device) if native else official_axis(h, rows, device)
        if self.wrap_around:
            turns = column_turns(w, device)[None] if turns is None else turns
            return resample(table, row_axis, periodic_axis(turns, columns))
        if native:
            return self.pos_embed[:, 1:]
        return resample(table, row_axis, official_axis(w, columns, device))[None]

    def forward(self, image: Tensor, turns: Tensor | None = None) -> EncoderOutput:
        """[N, 3, H, W] normalised images to tokens."""
        config, P = self.config, self.config.patch_size
        h, w = image.shape[-2] // P, image.shape[-1] // P
        patches, fine = self.patch_embed(image)
        with torch.autocast(image.device.type, enabled=False):
            codes = self.position_codes(h, w, turns)
        patches = patches + codes
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(image), -1, -1)
        x = torch.cat([cls, patches], dim=1)  # [N, 1 + h * w, Ce]
        for block in self.blocks:
            x = run_block(
                block, x, checkpointing=config.gradient_checkpointing, policy=config.checkpoint_policy
            )
        x = self.norm(x)
        return EncoderOutput(x[:, 1:], x[:, 0], fine)


class ImageEncoder(nn.Module):
    """Wrapper that gives the transformer its official prefix ``encoder.model``."""

    def __init__(self, config: EncoderConfig, wrap_around: bool = False) -> None:
        super().__init__()
        self.model = VisionTransformer(config, wrap_around)

    def forward(self, image: Tensor, turns: Tensor | None = None) -> EncoderOutput:
        """Encode images.

        Args:
            image: [N, 3, H, W] normalised with DINOv2's mean and standard deviation.
            turns: [N, w] place on the circle of each patch column (``wrap_around`` only), None = upright.
        """
        return self.model(image, turns)
