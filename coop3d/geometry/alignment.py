"""Closed-form alignment of two point sets after Horn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Similarity(NamedTuple):
    """``dst = scale * R @ src + t``."""

    scale: float
    R: NDArray[np.float64]  # [3, 3]
    t: NDArray[np.float64]  # [3]

    def apply(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """[..., 3] points of the source moved onto the destination."""
        return self.scale * (points @ self.R.T) + self.t


def _centred(src: NDArray[np.floating], dst: NDArray[np.floating]) -> tuple[NDArray[np.float64], ...]:
    src, dst = np.asarray(src, np.float64), np.asarray(dst, np.float64)
    if src.shape != dst.shape or src.ndim != 2 or src.shape[1] != 3 or len(src) < 3:
        raise ValueError(f"alignment needs two [N >= 3, 3] sets, found {src.shape} and {dst.shape}")
    w = np.full(len(src), 1 / len(src))
    mean_src, mean_dst = w @ src, w @ dst
    return src - mean_src, dst - mean_dst, w, mean_src, mean_dst


def _require_rank(covariance: NDArray[np.float64]) -> None:
    """Rank >= 2 decides the rotation; points on one line leave it free about that line."""
    largest, second = np.linalg.svd(covariance, compute_uv=False)[:2]
    if largest <= 0 or second < 1e-12 * largest:
        raise ValueError("alignment is undefined: the corresponding points coincide or lie on one line")


def horn(src: NDArray[np.floating], dst: NDArray[np.floating]) -> Similarity:
    """Similarity with Horn's symmetric scale, rotation from the largest eigenvector of his 4x4 matrix.

    B. K. P. Horn, "Closed-form solution of absolute orientation using unit quaternions", JOSA A 1987. The
    symmetric scale ``sqrt(sum |y|^2 / sum |x|^2)`` does not depend on which set is called source.

    Args:
        src, dst: [N, 3] corresponding points, N >= 3, not all on one line.

    Raises:
        ValueError: wrong shapes, or points on one line (rotation about it is free).
    """
    x, y, w, mean_src, mean_dst = _centred(src, dst)
    S = (x * w[:, None]).T @ y
    _require_rank(S)
    delta = np.array([S[1, 2] - S[2, 1], S[2, 0] - S[0, 2], S[0, 1] - S[1, 0]])
    N = np.empty((4, 4))
    N[0, 0], N[0, 1:], N[1:, 0] = np.trace(S), delta, delta
    N[1:, 1:] = S + S.T - np.trace(S) * np.eye(3)
    qw, qx, qy, qz = np.linalg.eigh(N)[1][:, -1]
    R = np.array(
        [
            [1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy - qz * qw), 2 * (qx * qz + qy * qw)],
            [2 * (qx * qy + qz * qw), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz - qx * qw)],
            [2 * (qx * qz - qy * qw), 2 * (qy * qz + qx * qw), 1 - 2 * (qx * qx + qy * qy)],
        ]
    )
    scale = float(np.sqrt((w @ (y * y).sum(1)) / (w @ (x * x).sum(1))))
    return Similarity(scale, R, mean_dst - scale * R @ mean_src)
