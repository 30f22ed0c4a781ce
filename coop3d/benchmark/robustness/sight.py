"""How much do two vehicles see of the same: shares of points of one that the other sees, too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from coop3d.files import write_text
from coop3d.geometry.transforms import invert_rigid
from coop3d.types import CoopBatch, ViewTargets

MAX_POINTS = 1024  # of a vehicle, evenly spread over its valid pixels
LEAST_POINTS = 20  # fewer whose visibility is known say nothing
SLACK, SLACK_M = 1.02, 0.1  # a point this much beyond what a pixel measured is still its surface
DENSE = (
    0.5  # share of covered pixels with known range; under it range is LiDAR's, with gaps between its points
)
SPARSE_WINDOW = 9  # pixels; the farthest measurement in it stands for the gaps

EDGES = (0.05, 0.15, 0.30)  # of the shared share
BUCKETS = ("0-5%", "5-15%", "15-30%", "30+%")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def bucket(share: float) -> str:
    """Name of the half-open bucket of a share in [0, 1]; "" for NaN."""
    if math.isnan(share):
        return ""
    return BUCKETS[sum(share >= edge for edge in EDGES)]


@dataclass(frozen=True)
class _Eye:
    """One view, ready to be asked whether it sees a point.

    Each physical camera of the view has its own origin; a pixel belongs to one. A point is inside where some
    camera's pixel nearest to its direction is that camera's own, and seen where it lies no farther than the surface
    in that pixel (the sky is infinitely far).
    """

    T_view_ref: Floats
    tree: cKDTree  # of the rays
    pitch: float  # chord between neighbouring rays
    source: NDArray[np.uint8]  # [P]
    origins: dict[int, Floats]  # camera to its origin
    limit_m: Floats  # [P], NaN = unknown

    @classmethod
    def of(cls, targets: ViewTargets, b: int, v: int) -> _Eye:
        rays = targets.rays[b, v].double().numpy()
        source, known = targets.source[b, v].numpy(), targets.mask_known[b, v].numpy()
        origins = targets.origins[b, v].double().numpy()
        range_m = targets.range_m[b, v].double().numpy()
        valid, covered = targets.valid[b, v].numpy(), targets.covered[b, v].numpy()
        is_sky = covered & known & ~targets.non_ambiguous[b, v].numpy()
        limit = _limits(range_m, valid, is_sky, dense=bool((valid | is_sky).sum() > DENSE * covered.sum()))
        cameras = [int(k) for k in np.unique(source[covered])]
        return cls(
            T_view_ref=invert_rigid(targets.T_ref_view[b, v].double()).numpy(),
            tree=cKDTree(rays.reshape(-1, 3)),
            pitch=float(max(np.linalg.norm(np.diff(rays, axis=a), axis=-1).max() for a in (0, 1))),
            source=source.ravel(),
            origins={k: origins[covered & (source == k)][0] for k in cameras},
            limit_m=limit.ravel(),
        )

    def look(self, points_ref: Floats) -> tuple[Bools, Bools]:
        """(seen, known) of points [N, 3] in the reference frame."""
        points = points_ref @ self.T_view_ref[:3, :3].T + self.T_view_ref[:3, 3]
        seen, unclear = np.zeros(len(points), bool), np.zeros(len(points), bool)
        for k, origin in self.origins.items():
            away = points - origin
            distance = np.linalg.norm(away, axis=1)
            chord, pixel = self.tree.query(away / np.maximum(distance, 1e-9)[:, None])
            inside = (chord <= self.pitch) & (self.source[pixel] == k)
            limit = self.limit_m[pixel]
            seen |= inside & (distance <= SLACK * limit + SLACK_M)
            unclear |= inside & np.isnan(limit)
        return seen, seen | ~unclear


def _limits(range_m: Floats, valid: Bools, is_sky: Bools, *, dense: bool) -> Floats:
    """[H, W] how far the view sees anywhere in each pixel; infinite for sky, NaN = unknown.

    The inverse range of a plane is linear in the image, so half its slope to the more similar neighbours reaches the
    farthest corner of a pixel on a surface, and does not reach over its edge.
    """
    if not dense:
        farthest = np.where(valid, range_m, np.where(is_sky, np.inf, -np.inf))
        widest = maximum_filter(farthest, size=SPARSE_WINDOW, mode=("nearest", "wrap"))
        return np.where(widest == -np.inf, np.nan, widest)
    inverse = np.where(is_sky, 0.0, np.nan)
    inverse[valid] = 1 / range_m[valid]
    least = inverse.copy()
    for axis in (0, 1):
        ahead = np.abs(np.roll(inverse, -1, axis) - inverse)
        least -= 0.5 * np.nan_to_num(np.fmin(ahead, np.roll(ahead, 1, axis)))
    with np.errstate(divide="ignore"):
        return 1 / np.maximum(least, 0.0)


def _share(points_ref: Floats, eyes: list[_Eye]) -> float:
    """Share of points that some eye sees, of those of which it is known."""
    looks = [eye.look(points_ref) for eye in eyes]
    seen = np.any([s for s, _ in looks], axis=0)
    known = seen | np.all([k for _, k in looks], axis=0)
    return float(seen[known].mean()) if known.sum() >= LEAST_POINTS else math.nan


def shared_sight(targets: ViewTargets, b: int = 0) -> dict[int, float]:
    """Vehicle number to how much it and the reference see of each other's surroundings, from the truth.

    The mean of both directions: of the reference's points that the vehicle sees, and the reverse. A point is
    seen where it falls into a pixel of the view (its cone) and is not behind what that pixel measured (its range).
    NaN where too little is known.

    Args:
        targets: of a batch.
        b: which sample.
    """
    vehicle = targets.vehicle.numpy()
    views = {int(n): np.flatnonzero(vehicle == n) for n in dict.fromkeys(vehicle.tolist())}
    eyes = {n: [_Eye.of(targets, b, int(v)) for v in which] for n, which in views.items()}
    points = {n: _points(targets, b, which) for n, which in views.items()}
    reference, *others = views
    return {
        n: float(np.mean([_share(points[reference], eyes[n]), _share(points[n], eyes[reference])]))
        for n in others
    }


def _points(targets: ViewTargets, b: int, views: NDArray[np.int64]) -> Floats:
    valid = targets.valid[b, views]
    points = targets.points_ref[b, views][valid].double().numpy()
    return points[:: max(1, math.ceil(len(points) / MAX_POINTS))]


Pair = tuple[str, str, str, str]  # scenario, reference, frame, agent: the front of a row's identity


def sights_of(batch: CoopBatch) -> Mapping[Pair, float]:
    """Every pair (reference, other vehicle) of a batch."""
    found: dict[Pair, float] = {}
    vehicle = batch.targets.vehicle.tolist()
    for b, keys in enumerate(batch.keys):
        for number, share in shared_sight(batch.targets, b).items():
            key = keys[vehicle.index(number)]
            found[key.scenario, keys[0].agent, key.frame, key.agent] = share
    return found


def write_sights(path: Path, shares: Mapping[Pair, float]) -> None:
    """One line per pair; null where the share is unknown."""
    rows = [[*pair, None if math.isnan(share) else share] for pair, share in sorted(shares.items())]
    write_text(path, "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def read_sights(path: Path) -> dict[Pair, float]:
    """What `write_sights` wrote; nothing where there is no such file, or another version's."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {(s, r, f, a): math.nan if share is None else float(share) for s, r, f, a, share in rows}
    except (FileNotFoundError, ValueError, TypeError):
        return {}
