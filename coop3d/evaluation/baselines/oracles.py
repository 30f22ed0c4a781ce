"""Predictors that do see the truth: what the pipeline can score at best, and what one error alone costs.

They take `ViewTargets`, so none of them can be mistaken for a model, which takes `ViewInputs`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from coop3d.geometry import matrix_to_quat, yaw_rotation
from coop3d.types import FactoredPrediction, SampleKey, ViewTargets

Keys = Sequence[Sequence[SampleKey]]

UNMEASURED_M = 50.0  # a distance where the truth has none; scored nowhere


class GroundTruth:
    """The truth handed through the same prediction type and the same scoring: the ceiling of every score."""

    def __call__(self, targets: ViewTargets, keys: Keys) -> FactoredPrediction:
        """The targets as a prediction."""
        return truth_with_pose(targets, targets.T_ref_view)


class NoisyGnss:
    """True range and mask, poses as a good GNSS with heading would measure them.

    It isolates what pose error alone costs: how far points of different vehicles drift apart though every range is
    right. It is also what a cooperative system without any network would have. Each vehicle's position has independent
    noise in the ground plane, and its heading; the reference's own heading error turns everything it places far away.

    Args:
        position_m: standard deviation of each of the two horizontal coordinates.
        heading_deg: standard deviation.
        seed: with a vehicle's key it fixes its noise, whatever the order of samples.
    """

    def __init__(self, position_m: float = 0.2, heading_deg: float = 0.2, seed: int = 0) -> None:
        self.position_m, self.heading_deg, self.seed = position_m, heading_deg, seed

    def __call__(self, targets: ViewTargets, keys: Keys) -> FactoredPrediction:
        """The targets with ``T_ref_view = E_ref^-1 T_ref_view E_view``; views of one vehicle move together."""
        T = targets.T_ref_view.double().cpu()
        noisy = torch.stack([self._sample(T[b], targets.vehicle.tolist(), keys[b]) for b in range(len(T))])
        return truth_with_pose(targets, noisy.to(targets.T_ref_view))

    def _sample(self, T: Tensor, vehicle: Sequence[int], keys: Sequence[SampleKey]) -> Tensor:
        """[V, 4, 4] true to noisy. A vehicle's error acts in the frame of its first view."""
        first = [vehicle.index(v) for v in vehicle]
        error = [torch.from_numpy(self._error(keys[f])) for f in first]
        placed = [
            T[f] @ e @ torch.linalg.inv(T[f]) @ T[v]
            for v, (f, e) in enumerate(zip(first, error, strict=True))
        ]
        return torch.linalg.inv(error[0]) @ torch.stack(placed)

    def _error(self, key: SampleKey) -> np.ndarray:
        digest = hashlib.sha256(f"{self.seed}/{key}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        error = yaw_rotation(math.radians(self.heading_deg) * rng.standard_normal())
        error[[0, 2], 3] = self.position_m * rng.standard_normal(2)
        return error


def truth_with_pose(targets: ViewTargets, T_ref_view: Tensor) -> FactoredPrediction:
    """True range, rays and mask with the given poses [B, V, 4, 4].

    The true mask says "surface" where that is not known; nothing is scored there.
    """
    known = targets.range_m.isfinite()
    return FactoredPrediction(
        rays=targets.rays,
        distance=torch.where(known, targets.range_m, UNMEASURED_M),
        trans=T_ref_view[..., :3, 3],
        quat_xyzw=matrix_to_quat(T_ref_view[..., :3, :3]),
        scale=targets.rays.new_ones(len(targets.rays)),
        confidence=torch.ones_like(targets.rays[..., 0]),
        mask_logits=torch.where(targets.non_ambiguous | ~targets.mask_known, 1.0, -1.0).to(targets.rays),
        origins=targets.origins,
    )
