"""Non-ambiguous mask: the term, and a watch that speaks up when its head has collapsed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from coop3d.losses.robust import masked_mean
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue


class MaskTerm(Term):
    """Binary cross-entropy of ``mask_logits`` against ``non_ambiguous``, only where the latter is known.

    Logs ``pred_mask_mean`` (mean probability) and ``gt_mask_mean`` over the same pixels: a mask that
    collapsed to all or nothing shows there long before it shows in the loss (`MaskWatch`).

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
        return TermValue.over(entropy, known, statistics)


class MaskWatch:
    """Finds a collapsed mask in logged means; says each thing once until it has passed.

    Args:
        margin: a mean this close to 0 or 1 says "everything" or "nothing".
    """

    def __init__(self, margin: float = 0.01) -> None:
        self.margin = margin
        self._said: set[str] = set()

    def __call__(self, means: Mapping[str, float]) -> list[str]:
        """New complaints about means named ``<term>/pred_mask_mean`` and ``<term>/gt_mask_mean``."""
        found: dict[str, str] = {}
        for name, predicted in means.items():
            term, _, what = name.rpartition("/")
            if what != "pred_mask_mean":
                continue
            true = means[f"{term}/gt_mask_mean"]
            if self._is_constant(true):
                found[f"{term} truth"] = (
                    f"{term}: the true mask is nearly constant (mean {true:.3f}), so its head learns nothing. "
                    "Is mask_known restricted to pixels that carry a measurement?"
                )
            elif self._is_constant(predicted):
                found[f"{term} head"] = (
                    f"{term}: the mask head has collapsed (mean {predicted:.3f}, truth {true:.3f}). "
                    f"Try another loss.terms.{term}.pos_weight (below 1 for a head stuck at 1, above for 0)."
                )
        new = [text for key, text in found.items() if key not in self._said]
        self._said = set(found)
        return new

    def _is_constant(self, mean: float) -> bool:
        return min(mean, 1 - mean) < self.margin
