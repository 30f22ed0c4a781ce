"""What a loss term is, and the two ways its values are averaged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from coop3d.losses.scene import Scene

Reduction = Literal["sample_mean", "view_sum"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)


class TermValue(NamedTuple):
    """One term on one batch, before averaging: sums beside what they must be divided by.

    G groups: the views, or 1 where a term speaks about a whole sample. K parts: quotients that are added, such
    as rotation and translation, or the steps of a pyramid.
    """

    sums: Tensor  # [B, G, K]
    counts: Tensor  # [B, G, K] how many pixels, poses or pairs; 0 where nothing counts
    statistics: Mapping[str, Tensor] = {}  # scalars to log beside the term; they are not added to the loss

    @classmethod
    def over(cls, values: Tensor, mask: Tensor, statistics: Mapping[str, Tensor] | None = None) -> TermValue:
        """One part from ``values`` [B, G, ...] where ``mask`` (same shape).

        ``values`` must be finite outside the mask too: fill the *inputs* of whatever produced them, since a
        NaN that is masked here still reaches the gradient as 0 * NaN.
        """
        groups = (*values.shape[:2], -1)
        sums = torch.where(mask, values, torch.zeros_like(values)).reshape(groups).sum(dim=2, keepdim=True)
        counts = mask.reshape(groups).sum(dim=2, keepdim=True).to(values.dtype)
        return cls(sums, counts, statistics or {})

    @classmethod
    def joined(cls, parts: list[TermValue], statistics: Mapping[str, Tensor] | None = None) -> TermValue:
        """Several values with the same groups, side by side as parts."""
        sums = torch.cat([p.sums for p in parts], dim=2)
        return cls(sums, torch.cat([p.counts for p in parts], dim=2), statistics or {})

    def scaled(self, factor: float) -> TermValue:
        """The same with every sum multiplied by ``factor``."""
        return self._replace(sums=self.sums * factor)

    @property
    def per_sample(self) -> Tensor:
        """[B]: parts added, each the mean over all groups of that sample; 0 where nothing counts."""
        return (self.sums.sum(dim=1) / self.counts.sum(dim=1).clamp_min(1)).sum(dim=1)

    @property
    def per_group(self) -> Tensor:
        """[G, K]: each the mean over the whole batch; 0 where nothing counts."""
        return self.sums.sum(dim=0) / self.counts.sum(dim=0).clamp_min(1)

    def reduced(self, reduction: Reduction) -> Tensor:
        """Scalar: ``sample_mean`` averages `per_sample`, ``view_sum`` adds `per_group` as MapAnything does.

        With ``view_sum`` twice as many vehicles give about twice the loss, and samples with more valid pixels
        weigh more.
        """
        return self.per_sample.mean() if reduction == "sample_mean" else self.per_group.sum()


class Term(ABC):
    """A named part of the loss; the weight is applied by `WeightedSum`.

    A plain class on purpose: OmegaConf would turn a dataclass instance back into a config.
    """

    def __init__(self, weight: float = 1.0) -> None:
        if not weight >= 0:
            raise ValueError(f"{type(self).__name__}: weight is {weight}, expected a number >= 0")
        self.weight = float(weight)

    @abstractmethod
    def __call__(self, scene: Scene) -> TermValue:
        """Value of the term on a batch, not yet averaged."""
