"""Descriptors by which two views recognise the same place, from tokens that have already seen all views."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop3d.models.config import MatchingConfig
from coop3d.models.stem import StemBlock

UNSEEN_LOGIT = -6.0  # 0.25 %: less than what a match needs, see `matched_pose`


class MatchingHead(nn.Module):
    """Tokens, and the stem's finer map where there is one, to a grid of cells with one descriptor each.

    As in MASt3R (Leroy et al., 2024) descriptors come from features after attention between the views, and are
    trained to pick their counterpart among all cells of the other view. ``cells_per_patch`` cells per patch side
    unfold from each token.

    Args:
        token_dims: widths of the levels that enter, one after the other on the channel axis.
        fine_dim: width of the finer map (2 cells per patch side), or None.
        config: sizes.
        wrap: left and right image borders touch.
    """

    def __init__(
        self, token_dims: tuple[int, ...], fine_dim: int | None, config: MatchingConfig, wrap: bool
    ) -> None:
        super().__init__()
        self.cells, hidden = config.cells_per_patch, config.hidden_dim
        self.unfold = nn.Conv2d(sum(token_dims), hidden * self.cells**2, 1)
        self.fine = nn.Conv2d(fine_dim, hidden, 1) if fine_dim else None
        self.refine = nn.Sequential(nn.GroupNorm(1, hidden), StemBlock(hidden, wrap))
        self.out = nn.Conv2d(hidden, config.dim + 1, 1)
        self.log_temperature = nn.Parameter(torch.zeros(1))  # one dimension: FSDP cuts no scalars
        self.register_load_state_dict_pre_hook(_with_a_dimension)
        self.initial_temperature = config.initial_temperature
        if not self.log_temperature.is_meta:
            self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """The configured temperature."""
        self.log_temperature.fill_(math.log(self.initial_temperature))

    @torch.no_grad()
    def silence(self) -> None:
        """No cell is seen by another view: no match counts, and a regressed pose stays, until this head is trained."""
        self.out.weight[-1].zero_()
        assert self.out.bias is not None
        self.out.bias[-1] = UNSEEN_LOGIT

    def forward(self, levels: tuple[Tensor, ...], fine: Tensor | None) -> tuple[Tensor, Tensor]:
        """Maps [N, C_k, h, w] and [N, C, 2 h, 2 w] to descriptors [N, c h, c w, D] and logits [N, c h, c w].

        A descriptor's length is the square root of the learned temperature, so that the inner product of two is
        the log-odds of a match.
        """
        x = F.pixel_shuffle(self.unfold(torch.cat(levels, dim=1)), self.cells)
        if self.fine is not None:
            assert fine is not None
            detail = self.fine(fine)
            if detail.shape[-2:] != x.shape[-2:]:
                detail = F.interpolate(detail, x.shape[-2:], mode="area")
            x = x + detail
        x = self.out(self.refine(x))
        descriptors = F.normalize(x[:, :-1], dim=1).movedim(1, -1)
        return descriptors * self.log_temperature.clamp(-2.0, 4.5).mul(0.5).exp(), x[:, -1]


def _with_a_dimension(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: object) -> None:
    """Earlier code saved the temperature as a scalar."""
    name = f"{prefix}log_temperature"
    if name in state:
        state[name] = state[name].reshape(1)
