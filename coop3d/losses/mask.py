"""Non-ambiguous mask term."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from coop3d.losses.robust import masked_mean
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue


class MaskTerm(Term):
    """Binary cross-entropy of ``mask_logits`` against ``non_ambiguous``, only where the latter is known.

    Logs ``pred_mask_mean`` (mean probability) and ``gt_mask_mean`` over the same pixels: a mask that
    collapsed to all or nothing shows there long before it shows in the loss.

    Args:
        weight: weight in the sum.
        pos_weight: factor on pixels whose truth is non-ambiguous, as in `torch.nn.BCEWithLogitsLoss`.
    """

    def __init__(self, weight: float = 1.0, pos_weight: float = 1.0) -> None:
        super().__init__(weight)
        if not pos_weight > 0:
            raise ValueError(f"MaskTerm: pos_weight is {pos_weight}, expected a positive number")
        self.pos_weight = pos_weight

    def __call__(self, scene: Scene) -> TermValue:
        known, truth = scene.targets.mask_known, scene.targets.non_ambiguous
        logits = torch.where(known, scene.prediction.mask_logits, 0.0)
        entropy = torch.where(truth, self.pos_weight * F.softplus(-logits), F.softplus(logits))
        statistics = {
            "pred_mask_mean": masked_mean(torch.sigmoid(logits.detach()), known).mean(),
            "gt_mask_mean": masked_mean(truth.to(logits.dtype), known).mean(),
        }
        return TermValue(masked_mean(entropy, known), statistics)
