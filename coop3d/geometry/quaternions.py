"""Unit quaternions (x, y, z, w), scalar last, Hamilton product, for torch tensors.

``q`` and ``-q`` are the same rotation; functions say where they choose a sign.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quat_normalize(q_xyzw: Tensor) -> Tensor:
    """[..., 4] to unit length; the zero quaternion stays zero instead of becoming NaN."""
    return q_xyzw / q_xyzw.norm(dim=-1, keepdim=True).clamp_min(1e-8)


def quat_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product [..., 4]: rotate by ``b`` first, then by ``a``."""
    ax, ay, az, aw = a.unbind(-1)
    bx, by, bz, bw = b.unbind(-1)
    return torch.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        dim=-1,
    )


def quat_conjugate(q_xyzw: Tensor) -> Tensor:
    """[..., 4] inverse of a unit quaternion."""
    return torch.cat([-q_xyzw[..., :3], q_xyzw[..., 3:]], dim=-1)


def quat_to_matrix(q_xyzw: Tensor) -> Tensor:
    """[..., 4] (normalised here) to [..., 3, 3] rotation."""
    x, y, z, w = quat_normalize(q_xyzw).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - z * w),
        2 * (x * z + y * w),
        2 * (x * y + z * w),
        1 - 2 * (x * x + z * z),
        2 * (y * z - x * w),
        2 * (x * z - y * w),
        2 * (y * z + x * w),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quat(R: Tensor) -> Tensor:
    """[..., 3, 3] rotation to [..., 4] unit quaternion with w >= 0.

    Takes the largest of the four candidate columns (Shepperd's method), so it stays accurate at 180 degrees.
    """
    m00, m11, m22 = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    # Row k is 4 q_k q, so the row of the largest component is the best conditioned.
    candidates = torch.stack(
        [
            torch.stack(
                [1 + m00 - m11 - m22, R[..., 0, 1] + R[..., 1, 0], R[..., 0, 2] + R[..., 2, 0],
                 R[..., 2, 1] - R[..., 1, 2]], dim=-1),
            torch.stack(
                [R[..., 0, 1] + R[..., 1, 0], 1 - m00 + m11 - m22, R[..., 1, 2] + R[..., 2, 1],
                 R[..., 0, 2] - R[..., 2, 0]], dim=-1),
            torch.stack(
                [R[..., 0, 2] + R[..., 2, 0], R[..., 1, 2] + R[..., 2, 1], 1 - m00 - m11 + m22,
                 R[..., 1, 0] - R[..., 0, 1]], dim=-1),
            torch.stack(
                [R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1],
                 1 + m00 + m11 + m22], dim=-1),
        ],
        dim=-2,
    )  # fmt: skip
    best = torch.diagonal(candidates, dim1=-2, dim2=-1).argmax(dim=-1)
    index = best[..., None, None].expand(*best.shape, 1, 4)
    q = candidates.gather(-2, index).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., 3:] < 0, -q, q)
