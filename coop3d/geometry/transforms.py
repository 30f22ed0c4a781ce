"""Rigid transforms as 4x4 matrices ``T_dst_src``, for numpy arrays and torch tensors alike."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from array_api_compat import array_namespace
from numpy.typing import NDArray
from torch import Tensor

ArrayT = TypeVar("ArrayT", NDArray[np.floating], Tensor)


def make_rigid(R: ArrayT, t: ArrayT) -> ArrayT:
    """[..., 3, 3] rotation and [..., 3] translation to [..., 4, 4]."""
    xp = array_namespace(R, t)
    top = xp.concat([R, t[..., None]], axis=-1)  # [..., 3, 4]
    bottom = xp.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1.0
    return xp.concat([top, bottom], axis=-2)


def eye_like(n: int, x: Tensor) -> Tensor:
    """[n, n] identity of the kind of ``x``, made where it is: nothing is copied from the host."""
    return torch.eye(n, dtype=x.dtype, device=x.device)


def invert_rigid(T: ArrayT) -> ArrayT:
    """Inverse of [..., 4, 4] rigid transforms by transposition: ``T_src_dst`` from ``T_dst_src``."""
    xp = array_namespace(T)
    R_inv = xp.matrix_transpose(T[..., :3, :3])
    return make_rigid(R_inv, -(R_inv @ T[..., :3, 3:])[..., 0])


def transform_points(T: ArrayT, points: ArrayT) -> ArrayT:
    """Move points of the ``src`` frame into ``dst``.

    Args:
        T: [..., 4, 4] rigid ``T_dst_src``.
        points: [..., N, 3] (the leading axes broadcast against those of ``T``).

    Returns:
        [..., N, 3] in ``dst``.
    """
    xp = array_namespace(T, points)
    return points @ xp.matrix_transpose(T[..., :3, :3]) + T[..., None, :3, 3]


def rotation_angle(R: ArrayT) -> ArrayT:
    """Angle in radians, in [0, pi], of [..., 3, 3] rotations.

    atan2 of the sine (from the antisymmetric part) and cosine (trace): accurate for tiny angles, where the
    usual arccos of the trace loses half the digits.
    """
    xp = array_namespace(R)
    axis = xp.stack(
        [R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], axis=-1
    )
    sine2 = xp.sqrt(xp.sum(axis * axis, axis=-1))  # 2 sin
    cosine2 = R[..., 0, 0] + R[..., 1, 1] + R[..., 2, 2] - 1.0  # 2 cos
    return xp.atan2(sine2, cosine2)


def skew(v: Tensor) -> Tensor:
    """[..., 3] to the matrix [..., 3, 3] of its cross product."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def rotation_from_vector(w: Tensor) -> Tensor:
    """Axis times angle [..., 3] in rad to [..., 3, 3] rotation: the exponential of `skew`, by Rodrigues' formula.

    Unlike `torch.linalg.matrix_exp` it never asks a GPU for a number.
    """
    squared = w.square().sum(-1)[..., None, None]
    K = skew(w)
    return eye_like(3, w) + _sinc(squared) * K + 0.5 * _sinc(squared / 4).square() * (K @ K)


def _sinc(squared: Tensor) -> Tensor:
    """sin(x) / x by x^2, which unlike x has a derivative at zero."""
    near = squared < 0.01  # there the terms left out are below 3e-18
    x = torch.where(near, 1.0, squared).sqrt()
    s = torch.where(near, squared, 0.0)
    series = 1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72)))
    return torch.where(near, series, x.sin() / x)


def yaw_rotation(yaw_rad: float) -> NDArray[np.float64]:
    """[4, 4] rotation about the vertical (y, down) axis; positive yaw turns forward (z) to the right (x)."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    T = np.eye(4)
    T[:3, :3] = [[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]
    return T
