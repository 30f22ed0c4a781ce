"""Multi-view transformer with alternating attention: all views together, then each view by itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from coop3d.models.blocks import LAYER_NORM_EPS, Block
from coop3d.models.config import TransformerConfig
from coop3d.models.linear import Linear
from coop3d.models.recompute import run_block

Counts = tuple[int, ...]  # views of each scene, of scenes that lie one behind the other on the view axis


class SharedFeatures(NamedTuple):
    """Normalised tokens, patches only (a class token's output is not used)."""

    taps: tuple[Tensor, ...]  # each [B, V, h * w, Ct]
    final: Tensor  # [B, V, h * w, Ct]
    scale_token: Tensor  # [B, Ct], or [scenes, Ct]


class AlternatingAttention(nn.Module):
    """Even layers attend over every token of every view and the scale token, odd layers inside each view.

    View 0 is marked as the reference by a fixed code. No view number enters otherwise, so the other views may
    come in any order and number. With ``view_role`` a learned code says whether a view's vehicle is the reference,
    and with several cameras per vehicle which of the rig's cameras it is; other vehicles may still be permuted.
    """

    def __init__(
        self,
        in_dim: int,
        config: TransformerConfig,
        view_role: bool = False,
        cameras_per_vehicle: int = 1,
    ) -> None:
        super().__init__()
        C, K = config.dim, cameras_per_vehicle
        self.view_pos_table: Tensor
        self.config = config
        self.cameras_per_vehicle = K
        self.proj_embed = Linear(in_dim, C) if in_dim != C else nn.Identity()
        # sin / cos of position 0: the reference view's code. A buffer because checkpoints contain it.
        self.register_buffer("view_pos_table", torch.tensor([0.0, 1.0]).repeat(C // 2)[None])
        self.view_role = nn.Embedding(2, C) if view_role else None  # row 0: reference, row 1: others
        self.rig_camera = nn.Embedding(K, C) if view_role and K > 1 else None
        self.self_attention_blocks = nn.ModuleList(
            Block(C, config.num_heads, config.mlp, config.layer_scale_init) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(C, eps=LAYER_NORM_EPS)

    def forward(
        self, patches: Tensor, cls: Tensor | None, scale_token: Tensor, counts: Counts | None = None
    ) -> SharedFeatures:
        """Share information between views.

        Args:
            patches: [B, V, h * w, Ce].
            cls: [B, V, 1, Ce] an extra token per view (one per photograph of a vehicle), or None.
            scale_token: [Ce] the token that will hold the metric scale.
            counts: with B = 1, the views of each scene where V holds several; None: each of B is one scene.
        """
        B, _, n_patches, _ = patches.shape
        x = patches if cls is None else torch.cat([patches, cls], dim=2)  # [B, V, T, Ce]
        x = self._mark_views(self.proj_embed(x), counts)
        scale = self.proj_embed(scale_token).expand(B if counts is None else len(counts), 1, -1)
        taps = []
        for i, block in enumerate(self.self_attention_blocks):
            if i % 2:
                x = self._run(block, x.flatten(0, 1)).unflatten(0, x.shape[:2])
            elif counts is None:
                x, scale = self._across_views(block, x, scale)
            else:
                x, scale = self._across_views_of_scenes(block, x, scale, counts)
            taps += [self.norm(x[:, :, :n_patches])] * self.config.indices.count(i)
        return SharedFeatures(tuple(taps), self.norm(x[:, :, :n_patches]), self.norm(scale[:, 0]))

    def _mark_views(self, x: Tensor, counts: Counts | None) -> Tensor:
        """Add the reference code to the first view and, where they exist, the learned roles to every view."""
        scenes = (x.shape[1],) if counts is None else counts
        place = torch.cat([torch.arange(n, device=x.device) for n in scenes])  # [V] number within the scene
        code = (place == 0)[:, None] * self.view_pos_table  # [V, C]
        if self.view_role is not None:
            code = code + self.view_role((place >= self.cameras_per_vehicle).long())
        if self.rig_camera is not None:
            code = code + self.rig_camera(place % self.cameras_per_vehicle)
        return x + code[:, None]

    def _across_views(self, block: nn.Module, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, V, T, C] and scale [B, 1, C], every scene of V views."""
        V, T = x.shape[1:3]
        sequence = self._run(block, torch.cat([x.flatten(1, 2), scale], dim=1))
        return sequence[:, :-1].unflatten(1, (V, T)), sequence[:, -1:]

    def _across_views_of_scenes(
        self, block: nn.Module, x: Tensor, scale: Tensor, counts: Counts
    ) -> tuple[Tensor, Tensor]:
        """x [1, V, T, C] and scale [scenes, 1, C]: one sequence per scene, packed without padding."""
        T = x.shape[2]
        scenes = [part.flatten(0, 1) for part in x[0].split(list(counts))]  # each [count * T, C]
        packed = torch.cat([part for pair in zip(scenes, scale, strict=True) for part in pair])
        lengths = tuple(n * T + 1 for n in counts)
        out = self._run(block, packed[None], lengths)[0].split(list(lengths))
        views = torch.cat([part[:-1] for part in out]).unflatten(0, (-1, T))
        return views[None], torch.stack([part[-1:] for part in out])

    def _run(self, block: nn.Module, *arguments: Tensor | Counts) -> Tensor:
        config = self.config
        return run_block(
            block, *arguments, checkpointing=config.gradient_checkpointing, policy=config.checkpoint_policy
        )
