"""Pose terms: where each vehicle is relative to the reference and, optionally, to every other."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from coop3d.geometry import quat_conjugate, quat_multiply, quat_to_matrix
from coop3d.losses.robust import check_robust, masked_mean, robust, squared_distance
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue


def ordered_pairs(views: int) -> tuple[list[int], list[int]]:
    """Indices (i, j) of all ordered pairs of different views."""
    pairs = [(i, j) for i in range(views) for j in range(views) if i != j]
    return [i for i, _ in pairs], [j for _, j in pairs]


def with_relative_poses(quat_xyzw: Tensor, trans: Tensor) -> tuple[Tensor, Tensor]:
    """Append the poses ``T_i^-1 T_j`` of all ordered pairs to the absolute ones.

    Args:
        quat_xyzw: [B, V, 4] unit, view to reference.
        trans: [B, V, 3].

    Returns:
        [B, V * V, 4] and [B, V * V, 3]: V absolute poses, then V (V - 1) relative ones.
    """
    i, j = ordered_pairs(quat_xyzw.shape[1])
    inverse = quat_conjugate(quat_xyzw[:, i])
    relative_quat = quat_multiply(inverse, quat_xyzw[:, j])
    offset = (trans[:, j] - trans[:, i])[..., None]
    relative_trans = (quat_to_matrix(inverse) @ offset)[..., 0]
    return torch.cat([quat_xyzw, relative_quat], dim=1), torch.cat([trans, relative_trans], dim=1)


class _PoseBase(Term):
    """Rotation and translation of every view, the reference included; with ``pairwise`` of every pair too.

    Rotation: ``min(rho(q - q*), rho(q + q*))``, since q and -q are one rotation. The mean runs over V poses,
        or over V^2 with ``pairwise``. Both parts are logged unweighted as ``rotation`` and ``translation``.
    """

    def __init__(
        self,
        weight: float = 1.0,
        rotation_weight: float = 1.0,
        translation_weight: float = 1.0,
        pairwise: bool = False,
        c: float = 0.05,
        alpha: float = 0.5,
    ) -> None:
        super().__init__(weight)
        check_robust(c, alpha)
        self.rotation_weight, self.translation_weight = rotation_weight, translation_weight
        self.pairwise, self.c, self.alpha = pairwise, c, alpha

    @abstractmethod
    def translations(self, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted and true translations to compare [B, V, 3], and which views count [B, V] bool."""

    @abstractmethod
    def translation_penalty(self, squared_error: Tensor) -> Tensor:
        """Penalty of the squared translation error [B, E]."""

    def __call__(self, scene: Scene) -> TermValue:
        pred_trans, true_trans, counts = self.translations(scene)
        pred_quat, true_quat = scene.prediction.quat_xyzw, scene.true_quat
        if self.pairwise:
            i, j = ordered_pairs(counts.shape[1])
            pred_quat, pred_trans = with_relative_poses(pred_quat, pred_trans)
            true_quat, true_trans = with_relative_poses(true_quat, true_trans)
            counts = torch.cat([counts, counts[:, i] & counts[:, j]], dim=1)
        squared = torch.minimum(
            squared_distance(pred_quat, true_quat), squared_distance(pred_quat, -true_quat)
        )
        rotation = robust(squared, self.c, self.alpha).mean(dim=1)
        squared = squared_distance(pred_trans, true_trans)
        translation = masked_mean(self.translation_penalty(squared), counts)
        return TermValue(
            self.rotation_weight * rotation + self.translation_weight * translation,
            {"rotation": rotation.detach().mean(), "translation": translation.detach().mean()},
        )


class PoseTerm(_PoseBase):
    """MapAnything's pose term: rotation, and translation up to scale ``rho(t / N_pr - t* / N_gt)``.

    Translations count where the view (for a pair: both views) has a valid pixel.
    """

    def translations(self, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
        pred = scene.pred_trans / scene.pred_norm[:, None, None]
        true = scene.true_trans / scene.true_norm[:, None, None]
        return pred, true, scene.view_has_range

    def translation_penalty(self, squared_error: Tensor) -> Tensor:
        return robust(squared_error, self.c, self.alpha)


class MetricPoseTerm(_PoseBase):
    """Rotation, and translation in metres: ``sqrt(|t - t*|^2 / c_m^2 + 1) - 1`` with ``c_m`` metres.

    Needs no range at all: the true pose is known even where nothing was measured. The convex penalty still
    pulls from tens of metres away, where the penalty of `PoseTerm` has become nearly flat; translations
    count for metric samples.
    """

    def __init__(
        self,
        weight: float = 1.0,
        rotation_weight: float = 1.0,
        translation_weight: float = 1.0,
        pairwise: bool = False,
        c: float = 0.05,
        alpha: float = 0.5,
        c_m: float = 1.0,
    ) -> None:
        super().__init__(weight, rotation_weight, translation_weight, pairwise, c, alpha)
        check_robust(c_m, 1.0)
        self.c_m = c_m

    def translations(self, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
        counts = scene.targets.is_metric[:, None].expand(scene.true_trans.shape[:2])
        return scene.pred_trans, scene.true_trans, counts

    def translation_penalty(self, squared_error: Tensor) -> Tensor:
        return robust(squared_error, self.c_m, alpha=1.0)
