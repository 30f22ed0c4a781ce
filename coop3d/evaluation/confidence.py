"""Does confidence know the error of range?

Sparsification after Ilg et al., "Uncertainty estimates and multi-hypotheses networks for optical flow", ECCV 2018.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

MAX_PIXELS = 4096  # of a view, evenly spread over its valid pixels

ROUNDING = 1e-5  # smaller differences of relative errors are float32 arithmetic, not errors to know about


def mean_log(confidence: NDArray[np.floating]) -> float:
    """Mean natural logarithm of [N] confidences, 0 = as unsure as can be; NaN without any.

    Where training minimises ``c e - a log c`` the best confidence is proportional to 1 / error, so a fall by x says
    that the model expects errors e^x times as large.
    """
    return float(np.log(confidence, dtype=np.float64).mean()) if len(confidence) else math.nan


class ConfidenceScores(NamedTuple):
    """NaN where there is nothing to know (equal errors) or nothing was said (equal confidences)."""

    ause: float  # 0 = the order of the errors, 1 = no better than chance, 2 = the reverse
    spearman: float  # 1 = the order of the errors, 0 = unrelated, -1 = the reverse


def confidence_scores(confidence: NDArray[np.floating], error: NDArray[np.floating]) -> ConfidenceScores:
    """How well sorting by confidence sorts by error.

    Both are about order only, so any increasing function of confidence scores the same. Equal confidences are
    a tie, not an order: constant confidence scores 1, whatever the pixels' order in memory.

    ``ause``: remove the least confident pixels first and look at the mean error of those that remain. The area
    between this curve and the one that removes the largest errors first, over the same area for removing at
    random. ``spearman``: rank correlation of confidence and minus error.

    Args:
        confidence: [N], larger is surer.
        error: [N] relative errors, non-negative; more than `MAX_PIXELS` are thinned out evenly.
    """
    step = max(1, math.ceil(len(error) / MAX_PIXELS))
    c, e = np.asarray(confidence[::step], np.float64), np.asarray(error[::step], np.float64)
    if len(e) < 2 or np.ptp(e) < ROUNDING:
        return ConfidenceScores(math.nan, math.nan)
    best = _sparsification_area(-e, e)
    ause = (_sparsification_area(c, e) - best) / (e.mean() - best)
    if np.ptp(c) == 0:
        return ConfidenceScores(float(ause), math.nan)
    spearman = spearmanr(c, -e).statistic
    return ConfidenceScores(float(ause), float(spearman))


def _sparsification_area(confidence: NDArray[np.float64], error: NDArray[np.float64]) -> float:
    """Mean over k of the mean error of the k surest; pixels of equal confidence enter in random order."""
    order = np.argsort(-confidence, kind="stable")
    c, e = confidence[order], error[order]
    starts = np.flatnonzero(np.diff(c, prepend=np.inf))  # of each run of equal confidence
    lengths = np.diff(starts, append=len(c))
    expected = np.repeat(np.add.reduceat(e, starts) / lengths, lengths)
    return float((expected.cumsum() / np.arange(1, len(e) + 1)).mean())
