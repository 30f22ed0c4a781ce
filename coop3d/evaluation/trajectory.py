"""Absolute and relative trajectory errors of one vehicle seen from another, through the library evo.

The model sees single instants. Its poses of one agent relative to the reference over a scenario, moved into the
world by the reference's true poses, are a trajectory; a jump between instants shows here and in no per-sample score.
ATE and RPE after Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems", IROS 2012.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coop3d.evaluation.rows import PoseNumbers, SampleRow, TrajectoryRow, ViewRow
from coop3d.geometry import transform_from_quat_trans
from coop3d.types import SampleKey

MIN_POSES = 3
Pose = NDArray[np.float64]  # [4, 4]


@dataclass(frozen=True, kw_only=True)
class Track:
    """One vehicle seen from another over consecutive frames, in the world."""

    rows: tuple[ViewRow, ...]  # by frame, at least `MIN_POSES`
    step: int  # frame numbers from one pose to the next
    true: NDArray[np.float64]  # [N, 4, 4]
    pred: NDArray[np.float64]  # [N, 4, 4]


def world_poses(samples: Iterable[SampleRow]) -> dict[SampleKey, Pose]:
    """The true world pose [4, 4] of every sample's reference, where it is known."""
    return {
        SampleKey(s.scenario, s.reference_agent, s.frame): _matrix(s.T_world_ref)
        for s in samples
        if not math.isnan(s.T_world_ref.x)
    }


def measured_trajectories(
    rows: Sequence[ViewRow], samples: Sequence[SampleRow]
) -> tuple[list[TrajectoryRow], str]:
    """Trajectory errors of an evaluation, and why there are none ("" where there are)."""
    found = tracks(rows, samples)
    if not found:
        if not any(_is_scored(row) for row in rows):
            return [], "no pose of another vehicle is scored"
        if not world_poses(samples):
            return [], "the data give no world pose of the references"
        return [], f"no vehicle is seen in {MIN_POSES} or more consecutive frames"
    try:
        _require_evo()
    except ImportError as error:
        return [], str(error)
    return [_evaluate(track) for track in found], ""


def tracks(rows: Sequence[ViewRow], samples: Sequence[SampleRow]) -> list[Track]:
    """Gap-free runs of frames of every (scenario, reference, agent), where world poses are known.

    Frames are consecutive when their numbers differ by the smallest difference of that agent: evenly thinned
    samples still make a trajectory, with a larger ``step`` (RPE is per step, so compare equal steps only). A
    larger gap starts a new trajectory; those of fewer than three poses are left out. Reference views and samples
    without metric scale are passed over; of a vehicle with several views the first counts.
    """
    T_world_ref = world_poses(samples)
    found: dict[tuple[str, str, str], dict[int, ViewRow]] = defaultdict(dict)
    for row in rows:
        if _is_scored(row) and _reference_key(row) in T_world_ref:
            found[row.scenario, row.reference_agent, row.agent].setdefault(int(row.frame), row)
    return [
        _track(run, step, T_world_ref)
        for _, track in sorted(found.items())
        for step, run in _runs([track[k] for k in sorted(track)])
    ]


def _is_scored(row: ViewRow) -> bool:
    return not row.is_reference and not math.isnan(row.translation_error_m)


def _require_evo() -> None:
    try:
        import evo  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "trajectory errors need the library evo; install it with: pip install 'coop3d[trajectory]'"
        ) from error


def _runs(track: list[ViewRow]) -> Iterator[tuple[int, list[ViewRow]]]:
    """(step, rows) of every gap-free stretch of at least `MIN_POSES` rows, which are sorted by frame."""
    gaps = [int(b.frame) - int(a.frame) for a, b in pairwise(track)]
    step, start = min(gaps, default=0), 0
    for end in [k + 1 for k, gap in enumerate(gaps) if gap != step] + [len(track)]:
        if end - start >= MIN_POSES:
            yield step, track[start:end]
        start = end


def _track(run: list[ViewRow], step: int, T_world_ref: Mapping[SampleKey, Pose]) -> Track:
    T_world = np.stack([T_world_ref[_reference_key(r)] for r in run])
    return Track(
        rows=tuple(run),
        step=step,
        true=T_world @ np.stack([_matrix(r.pose_true) for r in run]),
        pred=T_world @ np.stack([_matrix(r.pose_pred) for r in run]),
    )


def _evaluate(track: Track) -> TrajectoryRow:
    ate, aligned, rpe, rpe_deg = trajectory_errors(list(track.pred), list(track.true))
    first = track.rows[0]
    return TrajectoryRow(
        scenario=first.scenario,
        reference_agent=first.reference_agent,
        agent=first.agent,
        first_frame=first.frame,
        poses=len(track.rows),
        step=track.step,
        ate_m=ate,
        ate_aligned_m=aligned,
        rpe_m=rpe,
        rpe_deg=rpe_deg,
    )


def trajectory_errors(pred: Sequence[Pose], true: Sequence[Pose]) -> tuple[float, float, float, float]:
    """ATE and rigidly aligned ATE (RMS metres), RPE over one step (RMS metres, RMS degrees).

    Args:
        pred, true: N >= 2 poses [4, 4] agent to world, in order.

    Returns:
        The aligned ATE is NaN where the positions coincide or lie on one line: any rotation about it fits.
    """
    from evo.core.metrics import APE, RPE, PoseRelation
    from evo.core.trajectory import PosePath3D

    def rmse(metric: Any) -> float:
        metric.process_data((reference, estimate))
        return float(np.sqrt(np.mean(np.square(metric.error))))

    reference, estimate = PosePath3D(poses_se3=list(true)), PosePath3D(poses_se3=list(pred))
    ate = rmse(APE(PoseRelation.translation_part))
    rpe_m, rpe_deg = (
        rmse(RPE(relation, delta=1))
        for relation in (PoseRelation.translation_part, PoseRelation.rotation_angle_deg)
    )
    if _on_one_line(reference.positions_xyz) or _on_one_line(estimate.positions_xyz):
        return ate, math.nan, rpe_m, rpe_deg
    estimate.align(reference)
    return ate, rmse(APE(PoseRelation.translation_part)), rpe_m, rpe_deg


def _on_one_line(positions: NDArray[np.float64]) -> bool:
    spread = np.linalg.svd(positions - positions.mean(axis=0), compute_uv=False)
    return bool(spread[1] <= 1e-4 * spread[0] or spread[0] < 1e-6)


def _reference_key(row: ViewRow) -> SampleKey:
    return SampleKey(row.scenario, row.reference_agent, row.frame)


def _matrix(pose: PoseNumbers) -> Pose:
    numbers = torch.tensor(pose, dtype=torch.float64)
    return transform_from_quat_trans(numbers[3:], numbers[:3]).numpy()
