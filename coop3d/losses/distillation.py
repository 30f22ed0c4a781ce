"""Distillation: agree with a frozen teacher about poses and scale."""

from __future__ import annotations

import torch

from coop3d.losses.pose import squared_rotation
from coop3d.losses.robust import check_robust, robust, squared_distance
from coop3d.losses.scene import Scene
from coop3d.losses.term import Term, TermValue


class DistillationTerm(Term):
    """Rotation, metric translation and metric scale of a teacher's prediction of the same views.

    ``w_R rho(q -+ q_T) + w_t (sqrt(|s t - s_T t_T|^2 / c_m^2 + 1) - 1) + w_s |log(s / s_T)|``; rho is Barron's with
    ``c`` and alpha 0.5. Needs no truth. The teacher is detached. The three parts are logged unweighted.
    """

    def __init__(
        self,
        weight: float = 1.0,
        rotation_weight: float = 1.0,
        translation_weight: float = 1.0,
        scale_weight: float = 1.0,
        c: float = 0.05,
        c_m: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_robust(c, 0.5)
        check_robust(c_m, 1.0)
        self.weights = {"rotation": rotation_weight, "translation": translation_weight, "scale": scale_weight}
        self.c, self.c_m = c, c_m

    def __call__(self, scene: Scene) -> TermValue:
        teacher, student = scene.teacher, scene.prediction
        if teacher is None:
            raise ValueError(
                "DistillationTerm: no teacher. Call the loss as loss(prediction, targets, teacher=...), with the "
                "frozen model's prediction of the same views, or drop the term (~loss.terms.<name>)."
            )
        metres = teacher.trans * teacher.scale[:, None, None]
        ratio = student.scale.log() - teacher.scale.log()  # [B]
        views = scene.view_has_range
        values = {
            "rotation": robust(squared_rotation(student.quat_xyzw, teacher.quat_xyzw), self.c, 0.5),
            "translation": robust(squared_distance(scene.pred_trans, metres), self.c_m, alpha=1.0),
            "scale": ratio.abs()[:, None].expand_as(views),  # the same in every view
        }
        everywhere = torch.ones_like(views)
        parts = {name: TermValue.over(value, everywhere) for name, value in values.items()}
        return TermValue.joined(
            [part.scaled(self.weights[name]) for name, part in parts.items()],
            {name: part.per_sample.detach().mean() for name, part in parts.items()},
        )
