"""Guesses put together into predictors that are called like a model: with `ViewInputs` and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from coop3d.evaluation.baselines.ground import ground_plane_range
from coop3d.evaluation.baselines.guesses import (
    DepthGuess,
    MaskGuess,
    PoseGuess,
    ReferencePoseRepeated,
    RowMajorityMask,
)
from coop3d.evaluation.baselines.statistics import TrainingStatistics
from coop3d.types import FactoredPrediction, ViewInputs


def known_ray_prediction(
    inputs: ViewInputs, trans: Tensor, quat_xyzw: Tensor, range_m: Tensor, surface: Tensor
) -> FactoredPrediction:
    """A metric prediction (scale 1) along the known rays.

    Args:
        inputs: with rays.
        trans: [B, V, 3] metres.
        quat_xyzw: [B, V, 4] unit.
        range_m: [B, V, H, W] metres, or what broadcasts to that.
        surface: bool, as ``range_m``: non-ambiguous.
    """
    if inputs.rays is None:
        raise ValueError("TrivialBaseline needs inputs.rays (known ray directions), found None")
    shape, rays = inputs.shape, inputs.rays
    return FactoredPrediction(
        rays=rays,
        distance=range_m.to(rays).expand(shape).clone(),
        trans=trans.to(rays),
        quat_xyzw=quat_xyzw.to(rays),
        scale=rays.new_ones(shape[0]),
        confidence=rays.new_ones(shape),
        mask_logits=torch.where(surface, 1.0, -1.0).to(rays).expand(shape).clone(),
        origins=inputs.origins,
    )


def repeated_pose(inputs: ViewInputs, pose: PoseGuess) -> tuple[Tensor, Tensor]:
    """The guess for every view but the first: ([B, V, 3] metres, [B, V, 4] xyzw)."""
    B, V, _, _ = inputs.shape
    trans = inputs.image.new_zeros(B, V, 3)
    quat = inputs.image.new_tensor([0.0, 0.0, 0.0, 1.0]).repeat(B, V, 1)
    guess_trans, guess_quat = pose()
    trans[:, 1:], quat[:, 1:] = guess_trans.to(trans), guess_quat.to(quat)
    return trans, quat


class TrivialBaseline:
    """A pose guess, a depth guess and a mask guess."""

    def __init__(self, pose: PoseGuess, depth: DepthGuess, mask: MaskGuess) -> None:
        self.pose, self.depth, self.mask = pose, depth, mask

    def __call__(self, inputs: ViewInputs) -> FactoredPrediction:
        """Predict without looking at the image; needs ``inputs.rays``."""
        H = inputs.shape[2]
        trans, quat = repeated_pose(inputs, self.pose)
        return known_ray_prediction(inputs, trans, quat, self.depth(H)[:, None], self.mask(H)[:, None])


class GroundPlaneBaseline:
    """Every other vehicle where the reference stands, the road where a camera of known height sees it.

    The height is the only thing taken from training (and ``far_m``, the best constant above the horizon).
    """

    def __init__(self, statistics: TrainingStatistics) -> None:
        self.ground_below_m = statistics.ground_below()
        self.far_m = float(statistics.best_range_above())
        self.mask = RowMajorityMask(statistics)

    def __call__(self, inputs: ViewInputs) -> FactoredPrediction:
        """Predict without looking at the image; needs ``inputs.rays``."""
        range_m = ground_plane_range(inputs, self.ground_below_m, self.far_m)
        trans, quat = repeated_pose(inputs, ReferencePoseRepeated())
        return known_ray_prediction(inputs, trans, quat, range_m, self.mask(inputs.shape[2])[:, None])
