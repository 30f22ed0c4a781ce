"""Umeyama's least-squares fit, a second way to align point sets beside the library's Horn."""

from __future__ import annotations

import numpy as np

from coop3d.geometry import Similarity


def umeyama(src: np.ndarray, dst: np.ndarray, with_scale: bool = True) -> Similarity:
    """Similarity (or rigid transform) from ``src`` to ``dst``, [N, 3] each; never a reflection.

    S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
    """
    mean_src, mean_dst = src.mean(axis=0), dst.mean(axis=0)
    x, y = src - mean_src, dst - mean_dst
    U, D, Vt = np.linalg.svd(y.T @ x / len(x))
    S = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])
    R = (U * S) @ Vt
    scale = float((D * S).sum() / (x * x).sum(axis=1).mean()) if with_scale else 1.0
    return Similarity(scale, R, mean_dst - scale * R @ mean_src)
