"""Constant answers for pose, depth and mask, each from training statistics or from nothing."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from coop3d.evaluation.baselines.statistics import TrainingStatistics


class PoseGuess(Protocol):
    """Constant pose of every non-reference view."""

    def __call__(self) -> tuple[Tensor, Tensor]:
        """([3] metres, [4] xyzw)."""
        ...


class DepthGuess(Protocol):
    """Constant range image."""

    def __call__(self, height: int) -> Tensor:
        """[H] metres, one per image row."""
        ...


class MaskGuess(Protocol):
    """Constant mask."""

    def __call__(self, height: int) -> Tensor:
        """[H] bool, one per image row."""
        ...


class ReferencePoseRepeated:
    """Every vehicle stands where the reference stands: identity."""

    def __call__(self) -> tuple[Tensor, Tensor]:
        return torch.zeros(3), torch.tensor([0.0, 0.0, 0.0, 1.0])


class MeanDisplacement:
    """Every other vehicle stands at the mean training translation, with the mean training rotation."""

    def __init__(self, statistics: TrainingStatistics) -> None:
        self.trans, self.quat = statistics.mean_trans(), statistics.mean_quat()

    def __call__(self) -> tuple[Tensor, Tensor]:
        return self.trans, self.quat


class ConstantDepth:
    """The constant range that minimises training AbsRel.

    ``mean |d - r| / r`` is a weighted sum of absolute deviations with weights ``1 / r``, so its minimiser is
    the weighted median of the training ranges (to a histogram bin, 0.22 %). Views weigh equally, as in the
    metric.
    """

    def __init__(self, statistics: TrainingStatistics) -> None:
        self.range_m = statistics.best_range()

    def __call__(self, height: int) -> Tensor:
        return self.range_m.expand(height)


class RowMedianDepth:
    """As `ConstantDepth` for each image row: it knows that the ground is near and the horizon far."""

    def __init__(self, statistics: TrainingStatistics) -> None:
        self.range_m = statistics.best_range_per_row()

    def __call__(self, height: int) -> Tensor:
        return _check_height(self.range_m, height)


class AllNonAmbiguous:
    """Every pixel shows a surface."""

    def __call__(self, height: int) -> Tensor:
        return torch.ones(height, dtype=torch.bool)


class RowMajorityMask:
    """Each image row is what most of its known training pixels were."""

    def __init__(self, statistics: TrainingStatistics) -> None:
        if statistics.mask_votes is None:
            raise ValueError("TrainingStatistics is empty; call update on training targets")
        self.non_ambiguous = statistics.mask_votes >= 0

    def __call__(self, height: int) -> Tensor:
        return _check_height(self.non_ambiguous, height)


def _check_height(values: Tensor, height: int) -> Tensor:
    if len(values) != height:
        raise ValueError(f"image height is {height}, this baseline was fitted on height {len(values)}")
    return values
