"""What a loss term is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from coop3d.losses.scene import Scene


class TermValue(NamedTuple):
    """One term on one batch."""

    per_sample: Tensor  # [B], each the mean over that sample's own pixels or pairs; 0 where nothing counts
    statistics: Mapping[str, Tensor] = {}  # scalars to log beside the term; they are not added to the loss


class Term(ABC):
    """A named part of the loss. Returns per-sample means; the weight is applied by `WeightedSum`.

    A plain class on purpose: OmegaConf would turn a dataclass instance back into a config.
    """

    def __init__(self, weight: float = 1.0) -> None:
        if weight < 0:
            raise ValueError(f"{type(self).__name__}: weight is {weight}, expected a number >= 0")
        self.weight = float(weight)

    @abstractmethod
    def __call__(self, scene: Scene) -> TermValue:
        """Value of the term for every sample of the batch."""
