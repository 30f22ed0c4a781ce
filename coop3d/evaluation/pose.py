"""Pose errors in metres and degrees: nothing is aligned or rescaled first."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from coop3d.geometry import rotation_angle

LEAST_DISPLACEMENT_M = 1e-3  # a shorter translation has no direction


class PoseErrors(NamedTuple):
    """Errors of predicted poses, each [...]."""

    translation_m: Tensor  # |t - t*|
    rotation_deg: Tensor  # angle of R*^T R, 0..180
    yaw_deg: Tensor  # difference of headings in the horizontal plane, 0..180
    direction_deg: Tensor  # angle between t and t*, 0..180
    distance_m: Tensor  # |t*|


def pose_errors(T_pred: Tensor, T_true: Tensor) -> PoseErrors:
    """Compare poses ``T_ref_view`` [..., 4, 4]; computed in float64.

    Direction keeps its sign: a translation of the right length to the wrong side scores 180 degrees, not 0.
    It is NaN where the true translation is shorter than 1 mm, and 90 degrees (what a random direction scores
    on average) where the predicted one is: "no displacement" is an answer, and a wrong one.
    """
    T_pred, T_true = T_pred.double(), T_true.double()
    R_pred, R_true = T_pred[..., :3, :3], T_true[..., :3, :3]
    t_pred, t_true = T_pred[..., :3, 3], T_true[..., :3, 3]
    yaw = torch.rad2deg(heading(R_pred) - heading(R_true))
    return PoseErrors(
        translation_m=(t_pred - t_true).norm(dim=-1),
        rotation_deg=torch.rad2deg(rotation_angle(R_true.transpose(-1, -2) @ R_pred)),
        yaw_deg=(torch.remainder(yaw + 180.0, 360.0) - 180.0).abs(),
        direction_deg=torch.rad2deg(_direction_angle(t_pred, t_true)),
        distance_m=t_true.norm(dim=-1),
    )


def fold_direction(direction_deg: Tensor) -> Tensor:
    """Direction error without its sign, 0..90: what papers on up-to-scale pose report.

    An undefined direction (no true displacement) counts as 90, as there.
    """
    return torch.where(direction_deg.isnan(), 90.0, direction_deg.minimum(180.0 - direction_deg))


def convention_auc(rotation_deg: Tensor, direction_deg: Tensor, threshold_deg: int) -> Tensor:
    """Contribution of each pair to the pose AUC of the field: [...], the mean over pairs is the AUC.

    VGGT (Wang et al., CVPR 2025) and PoseDiffusion before it: the pair's error is the larger of its rotation
    angle and its sign-blind direction angle; a histogram with bins of 1 degree up to the threshold is
    accumulated, and the mean of the accumulated shares is the AUC. An error in bin k (0-based) is counted in
    ``threshold - k`` of ``threshold`` shares; the last bin is closed, as numpy's.
    """
    error = rotation_deg.maximum(fold_direction(direction_deg))
    shares = (threshold_deg - error.floor()).clamp_min(0.0)
    return torch.where(error == threshold_deg, 1.0, shares) / threshold_deg


def heading(R_ref_view: Tensor) -> Tensor:
    """[..., 3, 3] to [...] radians: where forward (z) points in the ground plane, positive to the right."""
    return torch.atan2(R_ref_view[..., 0, 2], R_ref_view[..., 2, 2])


def _direction_angle(a: Tensor, truth: Tensor) -> Tensor:
    angle = torch.atan2(torch.linalg.cross(a, truth, dim=-1).norm(dim=-1), (a * truth).sum(dim=-1))
    angle = torch.where(a.norm(dim=-1) < LEAST_DISPLACEMENT_M, math.pi / 2, angle)
    return torch.where(truth.norm(dim=-1) < LEAST_DISPLACEMENT_M, math.nan, angle)
