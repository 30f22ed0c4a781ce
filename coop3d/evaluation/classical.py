"""Metric relative pose of two rigs from matched rays, with nothing learned: a robust generalised camera.

Every pixel of a panorama is a ray with a known direction and a known origin. For a true match the two rays meet:
``d1`` lies in the plane of the baseline ``b = R o2 + t - o1`` and ``R d2`` (the generalised epipolar constraint of
Pless 2003). Because origins differ by metres inside one rig, the length of ``t`` enters the constraint. How well
depends on the matches, so its standard deviation is computed, and where it is too large the height above a level
road gives the length instead. No image is read here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import poselib
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from coop3d.geometry import invert_rigid

FloatArray = NDArray[np.float64]

SECTORS = np.radians([0.0, 90.0, 180.0, -90.0])  # azimuths of virtual pinholes, positive to the right
CENTRAL_ITERATIONS = 300  # with two thirds of the matches wrong, one draw of five in 243 is pure
FOCAL = 1000.0  # of virtual pinholes, in their pixels: errors in milliradians near the middle


class MatchedRays(NamedTuple):
    """N matches between a reference rig (1) and another (2), each ray in its own rig's panorama frame."""

    origins1: FloatArray  # [N, 3] metres
    rays1: FloatArray  # [N, 3] unit
    origins2: FloatArray
    rays2: FloatArray

    def take(self, which: NDArray) -> MatchedRays:
        """Some of the matches, by mask or index."""
        return MatchedRays(*(x[which] for x in self))


@dataclass(frozen=True)
class ClassicalOptions:
    """Limits of the estimation.

    Attributes:
        max_error_mrad: a match is an inlier within this angle.
        min_inliers: with fewer there is no answer.
        min_inlier_share: nor with a smaller share of the matches.
        max_iterations: of RANSAC; bounds the time.
        max_scale_std: relative standard deviation of the length of ``t`` above which the rig does not tell it.
        max_tilt_deg: vehicles stand upright; a solution that tilts by more is no answer.
        sensor_height_m: of the panorama's centre above the road (OPV2V's LiDAR).
        guessed_distance_m: length of ``t`` where neither rig nor road tells it; its direction is measured.
        max_distance_m: a vehicle farther away is no answer.
        seed: of RANSAC.
    """

    max_error_mrad: float = 6.0
    min_inliers: int = 14
    min_inlier_share: float = 0.15
    max_iterations: int = 2000
    max_scale_std: float = 0.2
    max_tilt_deg: float = 12.0
    sensor_height_m: float = 1.9
    guessed_distance_m: float = 15.0
    max_distance_m: float = 120.0
    seed: int = 0


class RelativePose(NamedTuple):
    """``T_ref_other``, where its length comes from (``rig``, ``ground`` or ``guess``), and how it was supported."""

    T_ref_other: FloatArray  # [4, 4] metres
    scale_from: str
    inliers: int
    scale_std: float  # relative, of the rig's answer


class NoPose(NamedTuple):
    """Why there is no answer."""

    reason: str


def relative_pose(matches: MatchedRays, options: ClassicalOptions | None = None) -> RelativePose | NoPose:
    """Where rig 2 stands in the frame of rig 1, from matches of which many may be wrong."""
    options = options if options is not None else ClassicalOptions()
    if len(matches.rays1) < options.min_inliers:
        return NoPose("too few matches")
    T, inlier = (_central_pose if _is_central(matches) else _robust_pose)(matches, options)
    if inlier.sum() < max(options.min_inliers, options.min_inlier_share * len(inlier)):
        return NoPose("too few inliers")
    good = matches.take(inlier)
    if _without_parallax(T, good, options):
        T[:3, 3] = 0.0
        return RelativePose(T, "rig", int(inlier.sum()), 0.0)
    T, scale_std = _refined(T, good, options)
    if _tilt_deg(T) > options.max_tilt_deg:
        return NoPose("tilted")
    scale_from = "rig"
    if not scale_std <= options.max_scale_std:
        length = _length_from_ground(T, good, options)
        scale_from = "guess" if length is None else "ground"
        length = options.guessed_distance_m if length is None else length
        T[:3, 3] *= length / max(float(np.linalg.norm(T[:3, 3])), 1e-9)
    if np.linalg.norm(T[:3, 3]) > options.max_distance_m:
        return NoPose("too far away")
    return RelativePose(T, scale_from, int(inlier.sum()), scale_std)


def epipolar_angles(T: FloatArray, matches: MatchedRays) -> FloatArray:
    """[N] signed angle in radians between ``d1`` and the plane of baseline and ``R d2``; 0 where the rays meet."""
    R, t = T[:3, :3], T[:3, 3]
    baseline = matches.origins2 @ R.T + t - matches.origins1
    normal = np.cross(baseline, matches.rays2 @ R.T)
    length = np.linalg.norm(normal, axis=-1)
    sine = np.einsum("ij,ij->i", normal, matches.rays1) / np.maximum(length, 1e-12)
    return np.arcsin(np.clip(sine, -1.0, 1.0))


def _robust_pose(matches: MatchedRays, options: ClassicalOptions) -> tuple[FloatArray, NDArray[np.bool_]]:
    """PoseLib's LO-RANSAC over generalised cameras made of virtual pinholes: (T_ref_other, inlier mask)."""
    cameras1, which1, pixels1 = _as_pinholes(matches.origins1, matches.rays1)
    cameras2, which2, pixels2 = _as_pinholes(matches.origins2, matches.rays2)
    pairs, order = [], []
    for c1, c2 in sorted({(int(a), int(b)) for a, b in zip(which1, which2, strict=True)}):
        rows = np.flatnonzero((which1 == c1) & (which2 == c2))
        pair = poselib.PairwiseMatches()
        pair.cam_id1, pair.cam_id2, pair.x1, pair.x2 = c1, c2, pixels1[rows], pixels2[rows]
        pairs.append(pair)
        order.append(rows)
    camera = {
        "model": "SIMPLE_PINHOLE",
        "width": int(2 * FOCAL),
        "height": int(2 * FOCAL),
        "params": [FOCAL, 0.0, 0.0],
    }
    pose, info = poselib.estimate_generalized_relative_pose(
        pairs, cameras1, [camera] * len(cameras1), cameras2, [camera] * len(cameras2),
        {
            "max_epipolar_error": options.max_error_mrad * FOCAL / 1000.0,
            "max_iterations": options.max_iterations, "min_iterations": min(50, options.max_iterations),
            "seed": options.seed,
        },
        {"verbose": False},
    )  # fmt: skip
    inlier: NDArray[np.bool_] = np.zeros(len(which1), bool)
    for rows, flags in zip(order, info["inliers"], strict=True):
        inlier[rows] = flags
    return _inverse(pose), inlier


def _is_central(matches: MatchedRays) -> bool:
    """All rays of each rig start at one point (to 1 mm): a generalised solver has nothing to hold on to."""
    return all(float(np.ptp(o, axis=0).max()) < 1e-3 for o in (matches.origins1, matches.origins2))


def _central_pose(matches: MatchedRays, options: ClassicalOptions) -> tuple[FloatArray, NDArray[np.bool_]]:
    """RANSAC over five-point solutions (Nister 2004); the length of t is 1, nothing here tells it."""
    rng = np.random.default_rng(options.seed)
    best: tuple[FloatArray, NDArray[np.bool_]] = (np.eye(4), np.zeros(len(matches.rays1), bool))
    for _ in range(min(options.max_iterations, CENTRAL_ITERATIONS)):
        five = rng.choice(len(matches.rays1), 5, replace=False)
        for pose in poselib.relpose_5pt(list(matches.rays1[five]), list(matches.rays2[five])):
            T = _inverse(pose)
            inlier = np.abs(epipolar_angles(T, matches)) < options.max_error_mrad / 1000.0
            if inlier.sum() > best[1].sum():
                best = T, inlier
    return best


def _inverse(pose: poselib.CameraPose) -> FloatArray:
    """PoseLib maps points of rig 1 into rig 2; here ``T_ref_other`` does the reverse."""
    T: FloatArray = np.eye(4)
    T[:3, :3], T[:3, 3] = pose.R, pose.t
    return np.asarray(invert_rigid(T), np.float64)


def _as_pinholes(origins: FloatArray, rays: FloatArray) -> tuple[list, NDArray[np.int64], FloatArray]:
    """Rays as pixels of pinholes that look at the four quarters, one set for every distinct origin."""
    azimuth = np.arctan2(rays[:, 0], rays[:, 2])
    quarter = np.round(azimuth / (np.pi / 2)).astype(int) % 4
    labels = np.concatenate([np.round(origins, 4), quarter[:, None]], axis=1)
    kinds, which = np.unique(labels, axis=0, return_inverse=True)
    which = which.reshape(-1)
    cameras, pixels = [], np.zeros((len(rays), 2))
    for k, (*centre, q) in enumerate(kinds):
        R = Rotation.from_euler("y", -SECTORS[int(q)]).as_matrix()  # rig to camera
        pose = poselib.CameraPose()
        pose.R, pose.t = R, -R @ np.array(centre)
        cameras.append(pose)
        local = rays[which == k] @ R.T
        pixels[which == k] = FOCAL * local[:, :2] / local[:, 2:]
    return cameras, which, pixels


def _without_parallax(T: FloatArray, matches: MatchedRays, options: ClassicalOptions) -> bool:
    """Matched rays are parallel once the rotation is undone: the rigs stand in one place.

    Parallel rays lie in one plane whatever ``t`` is, so the epipolar constraint would accept any.
    """
    parallel = np.einsum("ni,ij,nj->n", matches.rays1, T[:3, :3], matches.rays2)
    return bool(np.median(parallel) > math.cos(options.max_error_mrad / 1000.0))


def _refined(T: FloatArray, matches: MatchedRays, options: ClassicalOptions) -> tuple[FloatArray, float]:
    """Minimise the angles of all inliers; (T, relative standard deviation of the length of t)."""
    scale = options.max_error_mrad / 1000.0

    def move(x: FloatArray) -> FloatArray:
        moved = T.copy()
        moved[:3, :3] = Rotation.from_rotvec(x[:3]).as_matrix() @ T[:3, :3]
        moved[:3, 3] = T[:3, 3] + x[3:]
        return moved

    def residuals(x: FloatArray) -> FloatArray:
        return epipolar_angles(move(x), matches) / scale

    found = least_squares(residuals, np.zeros(6), loss="soft_l1", x_scale=[0.01] * 3 + [1.0] * 3, max_nfev=50)
    return move(found.x), _scale_std(move(found.x), found.jac, residuals(found.x))


def _scale_std(T: FloatArray, jacobian: FloatArray, residual: FloatArray) -> float:
    """Relative standard deviation of ``|t|`` by linear propagation of the residuals' own spread."""
    length = float(np.linalg.norm(T[:3, 3]))
    if length < 1e-6:
        return 0.0  # the rigs coincide: metres are not in doubt
    noise = 1.4826 * float(np.median(np.abs(residual)))
    information = jacobian.T @ jacobian
    if np.linalg.matrix_rank(information, hermitian=True) < 6:
        return math.inf
    along = np.concatenate([np.zeros(3), T[:3, 3] / length])
    return noise * math.sqrt(max(float(along @ np.linalg.inv(information) @ along), 0.0)) / length


def _length_from_ground(T: FloatArray, matches: MatchedRays, options: ClassicalOptions) -> float | None:
    """Length of t that puts matched points of the road onto the road; None unless enough of them agree.

    Both rays must point down and meet the plane ``y = sensor_height_m`` of rig 1. With X that point, the second ray
    passes through it where ``(X - R o2 - s t^) x (R d2) = 0``: one linear equation in the length s per match.
    """
    R = T[:3, :3]
    direction = T[:3, 3] / max(float(np.linalg.norm(T[:3, 3])), 1e-9)
    d2 = matches.rays2 @ R.T
    down = (matches.rays1[:, 1] > 0.05) & (d2[:, 1] > 0.05)
    m, d2 = matches.take(down), d2[down]
    below = (options.sensor_height_m - m.origins1[:, 1]) / m.rays1[:, 1]
    X = m.origins1 + below[:, None] * m.rays1
    left, right = np.cross(direction, d2), np.cross(X - m.origins2 @ R.T, d2)
    lengths = np.einsum("ij,ij->i", left, right) / np.maximum(np.einsum("ij,ij->i", left, left), 1e-9)
    lengths = lengths[(lengths > 0.5) & (lengths < options.max_distance_m)]
    if len(lengths) < 6:
        return None
    middle = float(np.median(lengths))
    agree = np.abs(lengths / middle - 1.0) < 0.15
    return float(np.median(lengths[agree])) if agree.sum() >= max(6, 0.5 * len(lengths)) else None


def _tilt_deg(T: FloatArray) -> float:
    """Angle between the two rigs' vertical axes."""
    return math.degrees(math.acos(float(np.clip(T[1, 1], -1.0, 1.0))))
