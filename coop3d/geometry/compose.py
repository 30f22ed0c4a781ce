"""From factored geometry (rays, distance, pose, scale, known origins) to points, for torch."""

from __future__ import annotations

import torch
from torch import Tensor

from coop3d.geometry.quaternions import quat_to_matrix
from coop3d.geometry.transforms import make_rigid


def rotate_rays(R: Tensor, vectors: Tensor) -> Tensor:
    """Rotate dense vectors: [..., 3, 3] and [..., H, W, 3] to [..., H, W, 3]."""
    return torch.einsum("...ij,...hwj->...hwi", R, vectors)


def transform_from_quat_trans(quat_xyzw: Tensor, trans: Tensor) -> Tensor:
    """[..., 4] quaternion and [..., 3] translation to [..., 4, 4]."""
    return make_rigid(quat_to_matrix(quat_xyzw), trans)


def compose_points(
    rays: Tensor,
    distance: Tensor,
    quat_xyzw: Tensor,
    trans: Tensor,
    scale: Tensor,
    origins: Tensor | None = None,
) -> Tensor:
    """Points in the reference frame: ``R (o + s * distance * ray) + s * t``.

    Known ray origins ``o`` are metres already and are not scaled; with ``o = 0`` this is MapAnything's
    composition exactly. That the metric baselines inside a rig stay fixed while everything else scales with
    ``s`` is what makes metric scale observable.

    Args:
        rays: [B, V, H, W, 3] unit, view frame.
        distance: [B, V, H, W] along the ray, before scale.
        quat_xyzw: [B, V, 4] view to reference.
        trans: [B, V, 3] before scale.
        scale: [B] metres per unit.
        origins: [B, V, H, W, 3] metres, view frame; None means zero.

    Returns:
        [B, V, H, W, 3] metres, reference frame.
    """
    points = (distance * scale[:, None, None, None])[..., None] * rays
    if origins is not None:
        points = points + origins
    moved = rotate_rays(quat_to_matrix(quat_xyzw), points)
    return moved + (trans * scale[:, None, None])[..., None, None, :]
