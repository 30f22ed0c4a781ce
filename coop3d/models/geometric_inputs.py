"""MapAnything's optional geometric inputs: what they are, how they are normalised, how they are fused.

Nothing here draws random numbers: which views get which input is data, decided by whoever fills the masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from coop3d.geometry.compose import rotate_rays
from coop3d.geometry.quaternions import quat_multiply, quat_to_matrix
from coop3d.models.blocks import at_least_float32

EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class GeometricInputs:
    """Geometry known beforehand. An input that is None is absent everywhere and costs nothing.

    ``*_given`` masks say which views have an input; what stands in the others does not matter.
    """

    ray_dirs: Tensor | None = None  # [B, V, H, W, 3] unit, view frame
    ray_dirs_given: Tensor | None = None  # [B, V] bool
    ray_origins: Tensor | None = None  # [B, V, H, W, 3] metres, view frame, for every view
    depth: Tensor | None = None  # [B, V, H, W] along the ray; 0 or NaN = unmeasured
    depth_given: Tensor | None = None  # [B, V] bool
    quat_xyzw: Tensor | None = None  # [B, V, 4] view to any common frame
    trans: Tensor | None = None  # [B, V, 3] view to the same frame
    pose_given: Tensor | None = None  # [B, V] bool; any pose needs view 0's pose
    is_metric: Tensor | None = None  # [B, V] bool: depth and pose are in metres

    @classmethod
    def from_views(cls, views: Sequence[Mapping[str, Tensor]]) -> GeometricInputs:
        """From MapAnything's list of per-view dictionaries, in which any key may be missing.

        Keys: ``ray_directions_cam`` [B, H, W, 3], ``depth_along_ray`` [B, H, W, 1], ``camera_pose_quats``
        [B, 4], ``camera_pose_trans`` [B, 3], ``is_metric_scale`` [B] bool.

        Raises:
            ValueError: if some view has a pose but view 0 has none.
        """

        def stack(key: str) -> tuple[Tensor | None, Tensor | None]:
            found = [view.get(key) for view in views]
            like = next((x for x in found if x is not None), None)
            if like is None:
                return None, None
            given = torch.tensor([x is not None for x in found], device=like.device)
            filled = [torch.zeros_like(like) if x is None else x for x in found]
            return torch.stack(filled, dim=1), given.expand(len(like), -1)

        rays, rays_given = stack("ray_directions_cam")
        depth, depth_given = stack("depth_along_ray")
        quat, quat_given = stack("camera_pose_quats")
        trans, trans_given = stack("camera_pose_trans")
        metric, _ = stack("is_metric_scale")
        pose_given = None
        if quat_given is not None and trans_given is not None:
            pose_given = quat_given & trans_given
            if not pose_given[:, 0].all():
                raise ValueError("poses are given relative to view 0, but view 0 itself has no pose")
        return cls(
            ray_dirs=rays,
            ray_dirs_given=rays_given,
            depth=None if depth is None else depth.squeeze(-1),
            depth_given=depth_given,
            quat_xyzw=quat if pose_given is not None else None,
            trans=trans if pose_given is not None else None,
            pose_given=pose_given,
            is_metric=metric,
        )


class GeometricEncoders(NamedTuple):
    """The encoders a model has; None where its configuration leaves one out."""

    ray_dirs: nn.Module | None
    ray_origins: nn.Module | None
    depth: nn.Module | None
    depth_scale: nn.Module | None
    cam_rot: nn.Module | None
    cam_trans: nn.Module | None
    cam_trans_scale: nn.Module | None


def relative_poses(quat_xyzw: Tensor, trans: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Poses relative to view 0; identity where not ``given``.

    The sign of the relative quaternion is left as it comes out: the published encoder was trained that way.
    """
    identity = torch.zeros_like(quat_xyzw)
    identity[..., 3] = 1.0
    # whatever stands where nothing is given, NaN or a quaternion of zeros, goes no farther
    quat_xyzw = torch.where(given[..., None], quat_xyzw, identity)
    trans = torch.where(given[..., None], trans, 0.0)
    q0 = quat_xyzw[:, :1]
    squared = (q0 * q0).sum(-1, keepdim=True)
    q0_inverse = torch.cat([-q0[..., :3], q0[..., 3:]], dim=-1) / squared
    q_rel = quat_multiply(q0_inverse.expand_as(quat_xyzw), quat_xyzw)
    R0_inverse = quat_to_matrix(q0_inverse)  # [B, 1, 3, 3]
    t_rel = rotate_rays(R0_inverse, (trans - trans[:, :1])[:, :, None, None])[:, :, 0, 0]
    return torch.where(given[..., None], q_rel, identity), t_rel * given[..., None]


def normalised_log_depth(depth: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Depth over its mean per view, on a log scale, and the log of that mean.

    Args:
        depth: [B, V, H, W]; 0 or NaN = unmeasured.
        given: [B, V] bool.

    Returns:
        [B, V, H, W, 1] log1p of normalised depth (0 where unmeasured) and [B, V, 1] log of the mean.
    """
    depth = torch.nan_to_num(depth) * given[..., None, None]
    measured = depth > 0
    total = (depth * measured).sum((-2, -1))
    mean = (total / (measured.sum((-2, -1)) + EPS)).clamp_min(EPS)
    normalised = depth / mean[..., None, None]
    return torch.log1p(normalised)[..., None], torch.log(mean + EPS)[..., None]


def normalised_trans(trans: Tensor) -> tuple[Tensor, Tensor]:
    """[B, V, 3] translations over their mean length per sample, and [B, 1] the log of that length."""
    length = trans.norm(dim=-1)
    mean = (length.sum(-1) / ((length > 0).sum(-1) + EPS)).clamp_min(EPS)
    return trans / mean[:, None, None], torch.log(mean + EPS)[:, None]


def _required(encoder: nn.Module | None, modality: str) -> nn.Module:
    if encoder is None:
        raise ValueError(
            f"{modality} was passed, but the model has no encoder for it; see geometric_inputs.modalities and "
            "panorama.known_rays_input"
        )
    return encoder


def fuse_geometry(tokens: Tensor, geometry: GeometricInputs, encoders: GeometricEncoders) -> Tensor:
    """Add the codes of whatever geometry is present to the image tokens, in float32.

    Args:
        tokens: [B, V, T, Ce] patch tokens.
        geometry: the inputs; absent ones run no encoder.

    Returns:
        [B, V, T, Ce].
    """
    if geometry.ray_dirs is not None:
        encoder = _required(encoders.ray_dirs, "ray_dirs")
        rays, given = geometry.ray_dirs, _given(geometry.ray_dirs_given, tokens)
        if geometry.ray_dirs_given is not None:
            rays = torch.where(given[..., None, None, None], rays, 0.0)
        tokens = tokens + _dense(encoder, rays) * given[..., None, None]
    if geometry.depth is not None:
        tokens = tokens + _depth_code(geometry, encoders, tokens)
    if geometry.quat_xyzw is not None:
        tokens = tokens + _pose_code(geometry, encoders, tokens)
    if geometry.ray_origins is not None:
        tokens = tokens + _dense(_required(encoders.ray_origins, "ray_origins"), geometry.ray_origins)
    return tokens


def _depth_code(geometry: GeometricInputs, encoders: GeometricEncoders, tokens: Tensor) -> Tensor:
    assert geometry.depth is not None
    given = _given(geometry.depth_given, tokens)
    log_depth, log_mean = normalised_log_depth(geometry.depth, given)
    code = _dense(_required(encoders.depth, "depth"), log_depth)
    if geometry.is_metric is not None:
        scale = _global(_required(encoders.depth_scale, "depth"), log_mean)
        code = code + scale * geometry.is_metric[..., None, None]
    return code * given[..., None, None]


def _pose_code(geometry: GeometricInputs, encoders: GeometricEncoders, tokens: Tensor) -> Tensor:
    assert geometry.quat_xyzw is not None
    assert geometry.trans is not None
    given = _given(geometry.pose_given, tokens)
    q_rel, t_rel = relative_poses(geometry.quat_xyzw, geometry.trans, given)
    t_unit, log_length = normalised_trans(t_rel)
    code = _global(_required(encoders.cam_rot, "pose"), q_rel)
    code = code + _global(_required(encoders.cam_trans, "pose"), t_unit)
    if geometry.is_metric is not None:
        lengths = log_length[:, None].expand(-1, tokens.shape[1], -1)
        scale = _global(_required(encoders.cam_trans_scale, "pose"), lengths)
        code = code + scale * geometry.is_metric[..., None, None]
    return code * given[..., None, None]


def _given(given: Tensor | None, tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if given is None else given


def _dense(encoder: nn.Module, maps: Tensor) -> Tensor:
    """[B, V, H, W, c] to [B, V, T, Ce]."""
    return encoder(at_least_float32(maps.flatten(0, 1))).unflatten(0, maps.shape[:2])


def _global(encoder: nn.Module, vectors: Tensor) -> Tensor:
    """[B, V, c] to [B, V, 1, Ce]."""
    return encoder(at_least_float32(vectors.flatten(0, 1))).unflatten(0, vectors.shape[:2])[:, :, None]
