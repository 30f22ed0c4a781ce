"""Points whose pose, depth and scale come from prediction or truth, one by one: which of them is to blame?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from coop3d.geometry import matrix_to_quat
from coop3d.types import FactoredPrediction, ViewTargets

POSES = ("pred", "gt", "input")
DEPTHS = ("pred", "gt_dense", "gt_sparse")
SCALES = ("pred", "gt")


@dataclass(frozen=True)
class PointSources:
    """Where each factor of the points comes from.

    Attributes:
        pose: ``pred``, ``gt``, or ``input``: what each vehicle itself reports.
        depth: ``pred``, or the truth of the sample, which is read from dense depth (``gt_dense``) or from the
            LiDAR (``gt_sparse``).
        scale: ``pred``, or ``gt``: predicted distances and translations times one factor per sample, so that the
            median ratio of predicted to true range is 1.
    """

    pose: str = "pred"
    depth: str = "pred"
    scale: str = "pred"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("pose", self.pose, POSES),
            ("depth", self.depth, DEPTHS),
            ("scale", self.scale, SCALES),
        ):
            if value not in allowed:
                raise ValueError(f"point {name} source is {value!r}, expected one of {', '.join(allowed)}")

    def apply(
        self,
        prediction: FactoredPrediction,
        targets: ViewTargets | None,
        T_ref_view_input: Tensor | None = None,
    ) -> FactoredPrediction:
        """The prediction with the chosen factors exchanged.

        With true depth the points lie where it is known, and the mask keeps all of them.

        Args:
            prediction: [B, V, ...].
            targets: needed for anything true.
            T_ref_view_input: [B, V, 4, 4] reported poses, for ``input``.

        Raises:
            ValueError: what a source needs is not there.
        """
        if targets is None and ("gt" in (self.pose, self.scale) or self.depth != "pred"):
            raise ValueError(f"{self} needs ground truth, which this input does not have; use pred")
        scale = prediction.scale
        if self.scale == "gt" and targets is not None:
            scale = true_scale(prediction, targets)
            if not scale.isfinite().all():
                raise ValueError("point scale source 'gt': no pixel has true range to take the scale from")
        out = replace(prediction, scale=scale)
        if self.depth != "pred" and targets is not None:
            out = _with_true_depth(out, targets)
        if self.pose != "pred":
            T = targets.T_ref_view if self.pose == "gt" and targets is not None else T_ref_view_input
            if T is None:
                raise ValueError(
                    "point pose source 'input': this sample has no reported poses (keys predicted_ego_pos and "
                    "true_ego_pos of OPV2V's YAML; a panorama cache keeps none); use pred or gt"
                )
            out = _with_pose(out, T.to(scale))
        return out


def true_scale(prediction: FactoredPrediction, targets: ViewTargets) -> Tensor:
    """[B] metres per predicted unit at which the median ratio of predicted to true range is 1; NaN without truth."""
    out = []
    for b, scale in enumerate(prediction.scale):
        ok = targets.valid[b]
        ratio = prediction.range_m[b][ok] / targets.range_m[b][ok]
        out.append(scale / ratio.median() if ratio.numel() else scale * torch.nan)
    return torch.stack(out)


def _with_true_depth(prediction: FactoredPrediction, targets: ViewTargets) -> FactoredPrediction:
    range_m = targets.range_m.masked_fill(~targets.valid, torch.nan)
    return replace(
        prediction,
        rays=targets.rays,
        origins=targets.origins,
        distance=range_m / prediction.scale[:, None, None, None],
        mask_logits=targets.valid.to(prediction.mask_logits) * 2 - 1,
    )


def _with_pose(prediction: FactoredPrediction, T_ref_view: Tensor) -> FactoredPrediction:
    return replace(
        prediction,
        trans=T_ref_view[..., :3, 3] / prediction.scale[:, None, None],
        quat_xyzw=matrix_to_quat(T_ref_view[..., :3, :3]),
    )
