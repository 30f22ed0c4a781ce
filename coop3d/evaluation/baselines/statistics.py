"""What trivial baselines may know: statistics of training targets, accumulated batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor

from coop3d.geometry import matrix_to_quat
from coop3d.types import ViewTargets

MIN_RANGE_M, MAX_RANGE_M, BINS = 0.1, 1000.0, 4096  # bins are 0.22 % wide
HEIGHT_BIN_M, HEIGHT_BINS = 0.01, 600  # down to 6 m below the view
MIN_DOWN = 0.17  # sine of 10 degrees: rays that meet a level road within 11 m of a sensor 1.9 m above it


class TrainingStatistics:
    """Accumulates what the baselines need from training targets, batch by batch, in constant memory."""

    def __init__(self) -> None:
        self.views = 0  # of non-reference vehicles, in metric samples
        self.trans_sum = torch.zeros(3, dtype=torch.float64)
        self.rotation_sum = torch.zeros(3, 3, dtype=torch.float64)
        self.range_weight: Tensor | None = None  # [H, BINS], sum of 1 / (r n_view) per row and log-range bin
        self.mask_votes: Tensor | None = None  # [H], non-ambiguous minus ambiguous known pixels
        self.height_votes = torch.zeros(
            HEIGHT_BINS, dtype=torch.float64
        )  # surface points per height below the view

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
        self._add_heights(targets)
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

    def _add_heights(self, targets: ViewTargets) -> None:
        down = targets.valid & targets.is_metric[:, None, None, None] & (targets.rays[..., 1] > MIN_DOWN)
        below_m = (targets.origins[..., 1] + targets.range_m * targets.rays[..., 1])[down]
        bins = (below_m / HEIGHT_BIN_M).floor()
        bins = bins[(bins >= 0) & (bins < HEIGHT_BINS)].long()
        self.height_votes += torch.bincount(bins, minlength=HEIGHT_BINS)

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

    def best_range_above(self) -> Tensor:
        """Scalar metres: as :meth:`best_range` for the upper half of the image alone, if it has training pixels."""
        upper = self._fitted()[: len(self._fitted()) // 2].sum(dim=0)
        return _weighted_median(upper) if upper.any() else self.best_range()

    def ground_below(self) -> float:
        """Metres from the view's centre down to the road: middle of the fullest 10 cm that downward rays hit."""
        if not self.height_votes.any():
            raise ValueError("TrainingStatistics has seen no downward ray with a valid metric range")
        layer = round(0.1 / HEIGHT_BIN_M)
        votes = self.height_votes.unfold(0, layer, 1).sum(dim=-1)
        return (int(votes.argmax()) + layer / 2) * HEIGHT_BIN_M

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
