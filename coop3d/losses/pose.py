"""Pose terms: where each vehicle is relative to the reference and, optionally, to every other."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from coop3d.geometry import quat_conjugate, quat_multiply, quat_to_matrix
from coop3d.geometry.transforms import eye_like
from coop3d.losses.robust import check_robust, log_map, masked_mean, robust, squared_distance
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue


def pair_poses(quat_xyzw: Tensor, trans: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """``T_i^-1 T_j`` in row i and column j; where these are not ``apart``, the pose ``T_i`` itself.

    Args:
        quat_xyzw: [B, V, 4] view to reference; inverted as a quaternion of any length.
        trans: [B, V, 3].
        apart: [B, V, V] bool, see `Scene.apart`.

    Returns:
        [B, V, V, 4] and [B, V, V, 3].
    """
    pair = apart[..., None]
    inverse = quat_conjugate(quat_xyzw) / quat_xyzw.square().sum(dim=-1, keepdim=True).clamp_min(1e-16)
    identity = eye_like(4, quat_xyzw)[3]
    to_base = torch.where(pair, inverse[:, :, None], identity)
    offset = torch.where(pair, trans[:, None] - trans[:, :, None], trans[:, :, None])
    rotated = quat_to_matrix(to_base) @ offset[..., None]
    moved = torch.where(pair, quat_xyzw[:, None], quat_xyzw[:, :, None])
    return quat_multiply(to_base, moved), rotated[..., 0]


def squared_rotation(a_xyzw: Tensor, b_xyzw: Tensor) -> Tensor:
    """``min(|a - b|^2, |a + b|^2)``: [..., 4] and [..., 4] to [...]; q and -q are one rotation."""
    return torch.minimum(squared_distance(a_xyzw, b_xyzw), squared_distance(a_xyzw, -b_xyzw))


class _PoseBase(Term):
    """Rotation and translation of every view, the reference included; with ``pairwise`` of every pair too.

    Rotation: ``min(rho(q - q*), rho(q + q*))``. A view's mean runs over its absolute pose and, with
    ``pairwise``, over the poses of all other views relative to it. Between photographs that share their vehicle's pose
    there is none to find: for each of them the absolute pose counts once, so that n fused vehicles weigh
    absolute and relative poses as n panoramas do. Both parts are logged unweighted as ``rotation`` and ``translation``.
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
        """Penalty of the squared translation error, element by element."""

    def __call__(self, scene: Scene) -> TermValue:
        pred_trans, true_trans, counts = self.translations(scene)
        pred_quat, true_quat = scene.prediction.quat_xyzw, scene.true_quat
        if self.pairwise:
            pred_quat, pred_trans = pair_poses(pred_quat, pred_trans, scene.apart)
            true_quat, true_trans = pair_poses(true_quat, true_trans, scene.apart)
            counts = counts[:, :, None] & (counts[:, None] | ~scene.apart)
        rotations = robust(squared_rotation(pred_quat, true_quat), self.c, self.alpha)
        rotation = TermValue.over(rotations, torch.ones_like(counts))
        squared = squared_distance(pred_trans, true_trans)
        translation = TermValue.over(self.translation_penalty(squared), counts)
        return TermValue.joined(
            [rotation.scaled(self.rotation_weight), translation.scaled(self.translation_weight)],
            {
                "rotation": rotation.per_sample.detach().mean(),
                "translation": translation.per_sample.detach().mean(),
            },
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


class SignedPairTerm(Term):
    """Where the other vehicle is, as seen from each: ``sqrt(|l(t_ij) - l(t_ij*)|^2 / c^2 + 1) - 1``.

    ``t_ij`` is the translation of ``T_i^-1 T_j`` in metres and ``l(t) = t / |t| log(1 + |t|)``: direction kept,
    length compressed, so 1 m of error counts more near than far. The sign is kept on purpose: with distances
    or undirected axes a car 20 m behind would equal one 20 m in front. Nowhere but at the truth does the
    gradient vanish; from the mirrored place it pulls back through the origin. Ordered pairs of views
    with different poses, of metric samples; needs no range.

    Logs ``wrong_side``: the share of pairs more than ``clear_m`` metres in front or behind that are predicted
    on the other side.
    """

    def __init__(self, weight: float = 1.0, c: float = 0.1, clear_m: float = 3.0) -> None:
        super().__init__(weight)
        check_robust(c, 1.0)
        self.c, self.clear_m = c, clear_m

    def __call__(self, scene: Scene) -> TermValue:
        _, pred = pair_poses(scene.prediction.quat_xyzw, scene.pred_trans, scene.apart)
        _, true = pair_poses(scene.true_quat, scene.true_trans, scene.apart)  # [B, V, V, 3]
        pairs = scene.apart & scene.targets.is_metric[:, None, None]
        penalty = robust(squared_distance(log_map(pred), log_map(true)), self.c, alpha=1.0)
        ahead = true[..., 2]  # z is forward
        clear = pairs & (ahead.abs() > self.clear_m)
        wrong = (pred[..., 2].detach() * ahead < 0).to(penalty.dtype)
        return TermValue.over(penalty, pairs, {"wrong_side": masked_mean(wrong, clear).mean()})
