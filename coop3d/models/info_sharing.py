"""Multi-view transformer with alternating attention: all views together, then each view by itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coop3d.models.blocks import LAYER_NORM_EPS, Block
from coop3d.models.config import TransformerConfig


class SharedFeatures(NamedTuple):
    """Normalised tokens, patches only (a class token's output is not used)."""

    taps: tuple[Tensor, ...]  # each [B, V, h * w, Ct]
    final: Tensor  # [B, V, h * w, Ct]
    scale_token: Tensor  # [B, Ct]


class AlternatingAttention(nn.Module):
    """Even layers attend over every token of every view and the scale token, odd layers inside each view.

    View 0 is marked as the reference by a fixed code. No view number enters otherwise, so the other views may
    come in any order and number.
    """

    def __init__(self, in_dim: int, config: TransformerConfig, view_role: bool = False) -> None:
        super().__init__()
        C = config.dim
        self.view_pos_table: Tensor
        self.config = config
        self.proj_embed = nn.Linear(in_dim, C) if in_dim != C else nn.Identity()
        # sin / cos of position 0: the reference view's code. A buffer because checkpoints contain it.
        self.register_buffer("view_pos_table", torch.tensor([0.0, 1.0]).repeat(C // 2)[None])
        self.view_role = nn.Embedding(2, C) if view_role else None  # row 0: reference, row 1: others
        self.self_attention_blocks = nn.ModuleList(
            Block(C, config.num_heads, config.mlp, config.layer_scale_init) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(C, eps=LAYER_NORM_EPS)

    def forward(self, patches: Tensor, cls: Tensor | None, scale_token: Tensor) -> SharedFeatures:
        """Share information between views.

        Args:
            patches: [B, V, h * w, Ce].
            cls: [B, V, Ce] one extra token per view, or None.
            scale_token: [Ce] the token that will hold the metric scale.
        """
        B, _, n_patches, _ = patches.shape
        x = patches if cls is None else torch.cat([patches, cls[:, :, None]], dim=2)  # [B, V, T, Ce]
        x = self._mark_views(self.proj_embed(x))
        scale = self.proj_embed(scale_token).expand(B, 1, -1)
        taps = []
        for i, block in enumerate(self.self_attention_blocks):
            x, scale = self._across_views(block, x, scale) if i % 2 == 0 else (self._inside(block, x), scale)
            taps += [self.norm(x[:, :, :n_patches])] * self.config.indices.count(i)
        return SharedFeatures(tuple(taps), self.norm(x[:, :, :n_patches]), self.norm(scale[:, 0]))

    def _mark_views(self, x: Tensor) -> Tensor:
        """Add the reference code to view 0 and, where it exists, the learned role to every view."""
        V = x.shape[1]
        code = torch.cat([self.view_pos_table, self.view_pos_table.new_zeros(V - 1, x.shape[-1])])  # [V, C]
        if self.view_role is not None:
            code = code + self.view_role((torch.arange(V, device=x.device) > 0).long())
        return x + code[:, None]

    def _across_views(self, block: nn.Module, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        V, T = x.shape[1:3]
        sequence = self._run(block, torch.cat([x.flatten(1, 2), scale], dim=1))
        return sequence[:, :-1].unflatten(1, (V, T)), sequence[:, -1:]

    def _inside(self, block: nn.Module, x: Tensor) -> Tensor:
        return self._run(block, x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.config.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
        return block(x)
