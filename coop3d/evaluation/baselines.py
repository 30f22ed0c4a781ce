"""Predictors that have not looked: what a model must beat before its numbers mean anything.

All constants come from *training* targets through `TrainingStatistics`; a predictor itself sees `ViewInputs`
only, like a model, and ignores the image.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from coop3d.geometry import matrix_to_quat
from coop3d.types import FactoredPrediction, ViewInputs, ViewTargets

MIN_RANGE_M, MAX_RANGE_M, BINS = 0.1, 1000.0, 4096  # bins are 0.22 % wide


class TrainingStatistics:
    """Accumulates what the baselines need from training targets, batch by batch, in constant memory."""

    def __init__(self) -> None:
        self.views = 0  # of non-reference vehicles, in metric samples
        self.trans_sum = torch.zeros(3, dtype=torch.float64)
        self.rotation_sum = torch.zeros(3, 3, dtype=torch.float64)
        self.range_weight: Tensor | None = None  # [H, BINS], sum of 1 / (r n_view) per row and log-range bin
        self.mask_votes: Tensor | None = None  # [H], non-ambiguous minus ambiguous known pixels

    def update(self, targets: ViewTargets) -> None:
        """Add one training batch, all of one image height; only metric samples give poses and ranges."""
        targets = targets.detach().to("cpu")
        H = targets.range_m.shape[2]
        if self.range_weight is None or self.mask_votes is None:
            self.range_weight = torch.zeros(H, BINS, dtype=torch.float64)
            self.mask_votes = torch.zeros(H, dtype=torch.float64)
        if len(self.mask_votes) != H:
            raise ValueError(f"image height is {H}, earlier batches had {len(self.mask_votes)}")
        self._add_poses(targets)
        self._add_ranges(targets)
        vote = torch.where(targets.non_ambiguous, 1.0, -1.0) * targets.mask_known
        self.mask_votes += vote.sum(dim=(0, 1, 3))

    def _add_poses(self, targets: ViewTargets) -> None:
        T = targets.T_ref_view[targets.is_metric][:, targets.vehicle != targets.vehicle[0]].double()
        T = T.flatten(0, 1)
        self.views += len(T)
        self.trans_sum += T[:, :3, 3].sum(dim=0)
        self.rotation_sum += T[:, :3, :3].sum(dim=0)

    def _add_ranges(self, targets: ViewTargets) -> None:
        assert self.range_weight is not None
        valid = targets.valid & targets.is_metric[:, None, None, None]
        per_view = valid.sum(dim=(2, 3)).double()  # [B, V]
        b, v, row, _ = valid.nonzero(as_tuple=True)
        range_m = targets.range_m[valid].double()
        position = torch.log(range_m / MIN_RANGE_M) / torch.log(torch.tensor(MAX_RANGE_M / MIN_RANGE_M))
        bins = (position * BINS).long().clamp(0, BINS - 1)
        weight = 1.0 / (range_m * per_view[b, v])
        self.range_weight.index_put_((row, bins), weight, accumulate=True)

    def mean_trans(self) -> Tensor:
        """[3] metres, mean position of non-reference vehicles (zero if none was seen)."""
        return self.trans_sum / max(self.views, 1)

    def mean_quat(self) -> Tensor:
        """[4] xyzw: chordal mean rotation, the rotation nearest to the mean of the matrices."""
        if self.views == 0:
            return torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
        U, _, Vh = torch.linalg.svd(self.rotation_sum)
        signs = torch.ones(3, dtype=torch.float64)
        signs[2] = torch.det(U @ Vh)
        return matrix_to_quat(U @ torch.diag(signs) @ Vh)

    def best_range(self) -> Tensor:
        """Scalar metres: the constant with the smallest training AbsRel (see `ConstantDepth`)."""
        return _weighted_median(self._fitted().sum(dim=0))

    def best_range_per_row(self) -> Tensor:
        """[H] metres: as :meth:`best_range` for each image row; rows without training pixels get that one."""
        weight = self._fitted()
        return torch.where(weight.sum(dim=1) > 0, _weighted_median(weight), self.best_range())

    def _fitted(self) -> Tensor:
        if self.range_weight is None or not self.range_weight.any():
            raise ValueError(
                "TrainingStatistics has seen no valid metric range; call update on training targets"
            )
        return self.range_weight


def _weighted_median(weight: Tensor) -> Tensor:
    """[..., BINS] weights to [...] metres: centre of the bin where half the weight is reached."""
    cumulative = weight.cumsum(dim=-1)
    half = cumulative[..., -1:] / 2
    index = torch.searchsorted(cumulative, half).squeeze(-1).clamp_max(BINS - 1)
    return MIN_RANGE_M * (MAX_RANGE_M / MIN_RANGE_M) ** ((index.double() + 0.5) / BINS)


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


class TrivialBaseline:
    """A pose guess, a depth guess and a mask guess, called like a model."""

    def __init__(self, pose: PoseGuess, depth: DepthGuess, mask: MaskGuess) -> None:
        self.pose, self.depth, self.mask = pose, depth, mask

    def __call__(self, inputs: ViewInputs) -> FactoredPrediction:
        """Predict without looking at the image; needs ``inputs.rays``."""
        if inputs.rays is None:
            raise ValueError("TrivialBaseline needs inputs.rays (known ray directions), found None")
        B, V, H, W = inputs.shape
        dtype, device = inputs.rays.dtype, inputs.rays.device

        def per_row(values: Tensor) -> Tensor:
            return values.to(device, dtype)[:, None].expand(B, V, H, W).clone()

        trans = torch.zeros(B, V, 3, dtype=dtype, device=device)
        quat = trans.new_tensor([0.0, 0.0, 0.0, 1.0]).repeat(B, V, 1)
        guess_trans, guess_quat = self.pose()
        trans[:, 1:], quat[:, 1:] = guess_trans.to(trans), guess_quat.to(quat)
        return FactoredPrediction(
            rays=inputs.rays,
            distance=per_row(self.depth(H)),
            trans=trans,
            quat_xyzw=quat,
            scale=trans.new_ones(B),
            confidence=trans.new_ones(B, V, H, W),
            mask_logits=per_row(torch.where(self.mask(H), 1.0, -1.0)),
            origins=inputs.origins,
        )


def standard_baselines(statistics: TrainingStatistics) -> dict[str, TrivialBaseline]:
    """What every report shows: knowing nothing, the training set's averages, and its average per image row.

    The last is no longer trivial: on a level road the row alone tells the distance of the ground.
    """
    return {
        "reference pose + constant depth": TrivialBaseline(
            ReferencePoseRepeated(), ConstantDepth(statistics), AllNonAmbiguous()
        ),
        "mean displacement + constant depth": TrivialBaseline(
            MeanDisplacement(statistics), ConstantDepth(statistics), AllNonAmbiguous()
        ),
        "mean displacement + row depth": TrivialBaseline(
            MeanDisplacement(statistics), RowMedianDepth(statistics), RowMajorityMask(statistics)
        ),
    }
