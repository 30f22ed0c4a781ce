"""How far apart connected vehicles are: OPV2V's table, drawn evenly, and places on the streets that follow it."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

# Distance of the two nearest connected vehicles over the 2170 frames of OPV2V's test split: how many frames lie below
# how many metres. Counted there: 15, 30, 60 and 100 m, the median, the 95th percentile and the maximum. Chosen here:
# 5 m, as two cars side by side are hardly nearer, and the point between 30 and 60 m, which gives OPV2V's mean.
NEAREST_PAIR_M = np.array([5.0, 15.0, 19.5, 30.0, 41.0, 60.0, 80.5, 100.0, 166.0])
NEAREST_PAIR_SHARE = np.array([0, 651, 1085, 1524, 1782.5, 2041, 2061.5, 2080, 2170]) / 2170
# How often OPV2V's 68 default-town scenarios have 2, 3, ... 7 connected vehicles.
VEHICLE_SHARES = np.array([33, 22, 6, 4, 1, 2], np.float64)

_SENSED_M = 60.0  # partners beyond it are not what cooperation is measured on
_PLASTIC = 1.32471795724474602596  # root of x^3 = x + 1
STEPS = np.array([1 / _PLASTIC, 1 / _PLASTIC**2])
"""Steps of the additive sequence that fills the unit square evenly however many points are taken (Roberts, 2018)."""


def vehicle_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """[N] numbers of connected vehicles -> [N] how often OPV2V has them, of 1 in all; a lone vehicle counts as one."""
    shares = np.array([VEHICLE_SHARES[n - 2] if n >= 2 else 1.0 for n in counts])
    return shares / shares.sum()


def even_draw(start: NDArray[np.float64], index: int) -> NDArray[np.float64]:
    """[2] in [0, 1): point ``index`` of a sequence that is even over any number of scenarios, from ``start`` [2]."""
    return (start + (index + 1) * STEPS) % 1.0


def distance_at(share: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Metres below which ``share`` (0 to 1) of OPV2V's nearest pairs lie, linear between the counts of the table."""
    return np.interp(share, NEAREST_PAIR_SHARE, NEAREST_PAIR_M)


def wanted_distances(rng: Generator, share: float, n: int) -> list[float]:
    """Metres from each vehicle after the first to the nearest one before it; the first of them is the nearest pair.

    Further vehicles follow the same table above the nearest pair, up to 60 m; where the nearest pair is wider, they are
    up to a fifth wider still.
    """
    nearest = float(distance_at(share))
    if n < 2:
        return []
    ceiling = float(np.interp(_SENSED_M, NEAREST_PAIR_M, NEAREST_PAIR_SHARE))
    further = rng.uniform(size=n - 2)
    if share < ceiling:
        more = distance_at(share + further * (ceiling - share))
    else:
        more = nearest * (1.0 + 0.2 * further)
    return [nearest, *np.atleast_1d(more).tolist()]


def nearest_pair_m(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., N, 2 or 3] places of N >= 2 vehicles -> [...] metres between the two nearest."""
    i, j = np.triu_indices(places.shape[-2], 1)
    return np.linalg.norm(places[..., i, :] - places[..., j, :], axis=-1).min(axis=-1)
