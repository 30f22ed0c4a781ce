"""Weights that change during training."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence


class PiecewiseLinear:
    """A factor on a term's weight as a function of the fraction of training done.

    Args:
        points: ``[[fraction, factor], ...]`` with fractions in [0, 1], strictly increasing; straight lines
            between, constant before the first and after the last.
    """

    def __init__(self, points: Sequence[Sequence[float]]) -> None:
        if not points or any(len(p) != 2 for p in points):
            raise ValueError(f"curriculum: points is {points}, expected [[fraction, factor], ...]")
        self.fractions = [float(x) for x, _ in points]
        self.factors = [float(y) for _, y in points]
        rising = all(a < b for a, b in zip(self.fractions, self.fractions[1:], strict=False))
        if not rising or self.fractions[0] < 0 or self.fractions[-1] > 1:
            raise ValueError(f"curriculum: fractions are {self.fractions}, expected to rise within [0, 1]")
        if not all(math.isfinite(y) and y >= 0 for y in self.factors):
            raise ValueError(f"curriculum: factors are {self.factors}, expected numbers >= 0")

    def __call__(self, fraction: float) -> float:
        """Factor at ``fraction`` of training."""
        i = bisect_right(self.fractions, fraction)
        if i == 0 or i == len(self.fractions):
            return self.factors[max(i - 1, 0)]
        x0, x1, y0, y1 = *self.fractions[i - 1 : i + 1], *self.factors[i - 1 : i + 1]
        return y0 + (y1 - y0) * (fraction - x0) / (x1 - x0)
