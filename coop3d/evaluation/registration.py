"""Are the vehicles' centres right up to one similarity? After the Image Matching Challenge 2025.

The challenge scores the camera centres of reconstructed scenes: similarities from triplets of centres (Horn), a best
one per threshold (RANSAC over all triplets, refined on its inliers), mean accuracy over thresholds without the three
centres that any triplet fits, and clusterness for images that were put into the wrong scene. Ours has the centres of
vehicles, thresholds in metres fitting them, and samples instead of scenes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from coop3d.evaluation.rows import NO_REGISTRATION, RegistrationScores
from coop3d.geometry import horn

THRESHOLDS_M = (0.5, 1.0, 2.0, 5.0, 10.0)
FREE = 3  # centres that a similarity fits anyway
MAX_TRIPLETS = 2000  # all of them up to 23 centres


def registration_scores(pred_m: NDArray[np.floating], true_m: NDArray[np.floating]) -> RegistrationScores:
    """Score N predicted centres against the true ones.

    ``maa``: mean over thresholds of ``max(registered - 3, 0) / (centres - 3)``. ``clusterness``: share of the
    predicted centres that belong to the scene. ``score``: their harmonic mean. Undefined (NaN) for fewer than
    four true centres, or true centres on one line: then any rotation about it fits.

    Args:
        pred_m: [N, 3] metres in any frame and scale; a row of NaN was not registered.
        true_m: [N, 3] metres; a row of NaN does not belong to the scene.
    """
    member, used = np.isfinite(true_m).all(axis=1), np.isfinite(pred_m).all(axis=1)
    n = int(member.sum())
    if n <= FREE or _collinear(true_m[member]):
        return NO_REGISTRATION._replace(centres=n)
    both = member & used
    registered = registration_table(pred_m[both], true_m[both])
    maa = float(np.maximum(registered - FREE, 0).sum()) / (len(THRESHOLDS_M) * (n - FREE))
    clusterness = float(both.sum() / used.sum()) if used.any() else 0.0
    score = 2 * maa * clusterness / (maa + clusterness) if maa + clusterness else 0.0
    return RegistrationScores(n, maa, clusterness, score, *(registered / n).tolist())


def registration_table(pred_m: NDArray[np.floating], true_m: NDArray[np.floating]) -> NDArray[np.int64]:
    """How many of [N, 3] centres lie closer than each threshold after the best similarity for it.

    Best: most centres, then the smallest sum of squared errors of all. Zeros if no triplet fixes a similarity
    (fewer than three centres, or predictions that coincide or lie on one line).
    """
    limits = np.array(THRESHOLDS_M)
    counts, squares = np.zeros(len(limits), np.int64), np.full(len(limits), math.inf)
    tried: set[bytes] = set()
    for triplet in _triplets(len(pred_m)):
        close = _errors(pred_m, true_m, triplet)[:, None] < limits
        for inliers in close.T:
            if inliers.sum() < FREE or inliers.tobytes() in tried:
                continue
            tried.add(inliers.tobytes())
            errors = _errors(pred_m, true_m, np.flatnonzero(inliers))
            found, total = (errors[:, None] < limits).sum(axis=0), float((errors**2).sum())
            better = (found > counts) | ((found == counts) & (total < squares))
            counts[better], squares[better] = found[better], total
    return counts


def _errors(
    pred_m: NDArray[np.floating], true_m: NDArray[np.floating], chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[N] metres after the similarity that fits the chosen centres; infinite where they fix none."""
    try:
        similarity = horn(pred_m[chosen], true_m[chosen])
    except ValueError:  # on one line
        return np.full(len(pred_m), math.inf)
    return np.linalg.norm(similarity.apply(pred_m) - true_m, axis=1)


def _triplets(n: int) -> Iterator[NDArray[np.int64]]:
    if math.comb(n, 3) <= MAX_TRIPLETS:
        yield from (np.array(t) for t in combinations(range(n), 3))
        return
    rng = np.random.default_rng(0)
    yield from (rng.choice(n, 3, replace=False) for _ in range(MAX_TRIPLETS))


def _collinear(points: NDArray[np.floating]) -> bool:
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(spread[1] <= 1e-6 * spread[0])
