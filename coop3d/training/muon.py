"""Muon: weight matrices learn in all their directions at once, not only in the few that dominate the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coop3d.training.parallel import part_like, whole

MOMENTUM = 0.95
# Of the odd polynomial that Jordan et al. iterate: five times take singular values from 0.01 to 1 near 1.
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
USUAL_RMS = 0.2  # of AdamW's updates per unit of learning rate
# Of a matrix worth it: narrower ones are embeddings of a few things or outputs of a few numbers.
LEAST_SIDE = 16


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight is a linear layer's or a convolution's and wide enough for Muon."""
    return weight.ndim in (2, 4) and min(weight.shape[0], weight.numel() // weight.shape[0]) >= LEAST_SIDE


class Muon(torch.optim.Optimizer):
    """Muon for groups that say ``orthogonal``, AdamW for the others.

    Muon (Jordan et al., 2024) replaces the momentum of a matrix by the nearest orthogonal one, up to
    `orthogonalised`'s tolerance. Kernels of convolutions count as matrices [out, in x rows x columns]. Updates are
    scaled to the size that AdamW's usually have (Liu et al., 2025), so that one learning rate and one weight decay fit
    both.

    Args:
        groups: of parameters; those of ``orthogonal`` groups as `is_matrix` has them. Shards are gathered for the
            update, and every process computes all of it.
        betas: of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {})
        self._adamw = torch.optim.AdamW(
            [group for group in groups if not group["orthogonal"]], betas=betas, fused=True
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            if group["orthogonal"]:
                self._update_matrices(group)
        # Both have the same groups and state; anew in every step, since loading replaces them.
        self._adamw.param_groups = [group for group in self.param_groups if not group["orthogonal"]]
        self._adamw.state = self.state
        self._adamw.step()

    def _update_matrices(self, group: dict[str, Any]) -> None:
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            momentum = state["momentum"].lerp_(weight.grad, 1.0 - MOMENTUM)
            ahead = whole(weight.grad.lerp(momentum, MOMENTUM)).flatten(1)  # Nesterov's
            update = orthogonalised(ahead) * (USUAL_RMS * max(ahead.shape) ** 0.5)
            weight.mul_(1.0 - group["lr"] * group["weight_decay"])
            weight.sub_(part_like(update.to(weight.dtype).view(weight.shape), weight), alpha=group["lr"])


def orthogonalised(matrix: Tensor) -> Tensor:
    """``U V^T`` of ``matrix = U S V^T``, approximately: singular values of 0.7 to 1.2 in place of 1.

    A polynomial iteration in the Gram matrix, products only; in bfloat16 on a GPU. Singular values below about 0.3 %
    of the Frobenius norm stay smaller.

    Args:
        matrix: [m, n].

    Returns:
        [m, n] of the dtype it was computed in.
    """
    x = matrix / matrix.norm().clamp_min(torch.finfo(torch.float32).tiny)
    if matrix.device.type == "cuda":
        x = x.bfloat16()
    if tall := x.shape[0] > x.shape[1]:
        x = x.mT
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
