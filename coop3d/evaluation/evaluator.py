"""Score predictions batch by batch, keep one row per view and one per sample, summarise at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coop3d.evaluation.confidence import ConfidenceScores, confidence_scores, mean_log
from coop3d.evaluation.dense import (
    NO_RANGE,
    RangeComparison,
    RangeScores,
    compare_range,
    mask_table,
    ray_angles_deg,
    scale_error,
)
from coop3d.evaluation.points import NO_CLOUD, CloudScores, sample_clouds
from coop3d.evaluation.pose import convention_auc, pose_errors
from coop3d.evaluation.registration import registration_scores
from coop3d.evaluation.report import write_per_frame_csv, write_per_sample_csv, write_summary_json
from coop3d.evaluation.rows import NO_BANDS, NO_REGISTRATION, PoseNumbers, SampleRow, ViewRow, distance_bucket
from coop3d.evaluation.summary import summarise
from coop3d.geometry import invert_rigid, matrix_to_quat
from coop3d.types import FactoredPrediction, SampleKey, ViewTargets

AUC_THRESHOLDS_DEG = (5, 10, 30)


def evaluate_batch(
    prediction: FactoredPrediction, targets: ViewTargets, keys: Sequence[Sequence[SampleKey]]
) -> list[ViewRow]:
    """One row per view of every sample of a batch, in order; arguments as :func:`score_batch`."""
    return score_batch(prediction, targets, keys)[0]


def score_batch(
    prediction: FactoredPrediction,
    targets: ViewTargets,
    keys: Sequence[Sequence[SampleKey]],
    points: bool = False,
    alone: FactoredPrediction | None = None,
    T_world_ref: NDArray[np.float64] | None = None,
) -> tuple[list[ViewRow], list[SampleRow]]:
    """One row per view and one per sample of a batch, in order.

    Args:
        prediction: what the model returned for the batch's `ViewInputs`.
        targets: the truth, [B, V, ...].
        keys: B x V identities.
        points: also compare fused clouds (about 0.1 s per sample on one core).
        alone: for the gain by cooperation, see :func:`coop3d.evaluation.points.sample_clouds`.
        T_world_ref: [B, 4, 4] true world pose of view 0, kept for trajectories; no other score needs it.

    Raises:
        ValueError: shapes disagree, or the prediction is not finite; the message names the sample.
    """
    B, V = targets.range_m.shape[:2]
    if prediction.distance.shape != targets.range_m.shape or [len(k) for k in keys] != [V] * B:
        raise ValueError(
            f"prediction is {tuple(prediction.distance.shape)}, targets are {tuple(targets.range_m.shape)}, "
            f"keys are {[len(k) for k in keys]} per sample; expected B samples with V views each"
        )
    prediction, targets = prediction.detach(), targets.detach()
    _require_finite(prediction, keys)
    ranges = compare_range(prediction, targets)
    clouds = sample_clouds(prediction, targets, alone) if points else [(NO_CLOUD, NO_CLOUD)] * B
    samples = _sample_rows(prediction, targets, keys, ranges, clouds)
    if T_world_ref is not None:
        worlds = _pose_numbers(torch.from_numpy(T_world_ref)[:, None])
        samples = [replace(s, T_world_ref=world) for s, (world,) in zip(samples, worlds, strict=True)]
    return _view_rows(prediction, targets, keys, ranges), samples


def _require_finite(prediction: FactoredPrediction, keys: Sequence[Sequence[SampleKey]]) -> None:
    """A score of NaN would drop out of every average, so a model could not be blamed for it: stop instead."""
    range_m = prediction.range_m
    good = (range_m.isfinite() & (range_m > 0)).flatten(1).all(dim=1)
    for part in (prediction.T_ref_view, prediction.mask_logits, prediction.confidence):
        good = good & part.isfinite().flatten(1).all(dim=1)
    if not good.all():
        sample = keys[int((~good).nonzero()[0])]
        raise ValueError(
            f"{sample[0]} (reference): the predicted pose, range, mask or confidence is not finite, or a range is "
            "not positive; scores would silently leave this sample out. Check the checkpoint and its precision."
        )


def _view_rows(
    prediction: FactoredPrediction,
    targets: ViewTargets,
    keys: Sequence[Sequence[SampleKey]],
    ranges: RangeComparison,
) -> list[ViewRow]:
    B, V = targets.range_m.shape[:2]
    poses = torch.stack(pose_errors(prediction.T_ref_view, targets.T_ref_view), dim=-1).tolist()
    pred_poses, true_poses = _pose_numbers(prediction.T_ref_view), _pose_numbers(targets.T_ref_view)
    maps = (prediction.non_ambiguous, targets.non_ambiguous, targets.mask_known)
    masks = mask_table(*(m.flatten(2) for m in maps)).tolist()
    rays = ray_angles_deg(prediction, targets).tolist()
    confidence = _confidence(prediction, targets, ranges)
    supports = None if prediction.pose_support is None else prediction.pose_support.tolist()
    is_metric, vehicle = targets.is_metric.tolist(), targets.vehicle.tolist()
    repeated = _repeated_poses(prediction, targets)
    rows = []
    for b in range(B):
        for v in range(V):
            tp, fp, fn, tn = masks[b][v]
            knows, level = confidence[b * V + v]
            row = ViewRow(
                scenario=keys[b][v].scenario,
                agent=keys[b][v].agent,
                frame=keys[b][v].frame,
                reference_agent=keys[b][0].agent,
                view=v,
                **_pose_columns(poses[b][v], vehicle[v] == vehicle[0], is_metric[b], repeated[v]),
                **_range_columns(ranges.views[b][v], is_metric[b]),
                mask_tp=tp,
                mask_fp=fp,
                mask_fn=fn,
                mask_tn=tn,
                ray_error_deg=rays[b][v],
                confidence_ause=knows.ause,
                confidence_spearman=knows.spearman,
                confidence_log=level,
                pose_support=math.nan if supports is None or v == 0 or repeated[v] else supports[b][v],
                pose_pred=pred_poses[b][v],
                pose_true=true_poses[b][v],
            )
            rows.append(row)
    return rows


def _repeated_poses(prediction: FactoredPrediction, targets: ViewTargets) -> list[bool]:
    """[V] True where a view's pose repeats that of an earlier view of the same vehicle; such poses are scored once."""
    vehicle = targets.vehicle.tolist()
    first = [vehicle.index(k) for k in vehicle]  # the first view of the same vehicle
    both = torch.stack([prediction.T_ref_view, targets.T_ref_view.to(prediction.trans)])  # [2, B, V, 4, 4]
    same = ((both - both[:, :, first]).abs() < 1e-6).all(dim=-1).all(dim=-1).flatten(0, 1).all(dim=0)
    return [known and first[v] != v for v, known in enumerate(same.tolist())]


def _pose_columns(errors: list[float], is_reference: bool, metric: bool, repeated: bool) -> dict[str, Any]:
    """A vehicle's pose is scored once, with the first of the views that share it; the distance is known of all."""
    translation, rotation, yaw, direction, distance = [math.nan] * 5 if is_reference else errors
    if repeated:
        translation = rotation = yaw = direction = math.nan
    return {
        "is_reference": is_reference,
        "distance_m": distance if metric else math.nan,
        "distance_bucket": distance_bucket(distance) if metric and not is_reference else "",
        "translation_error_m": translation if metric else math.nan,
        "rotation_error_deg": rotation,
        "yaw_error_deg": yaw,
        "direction_error_deg": direction,
    }


def _range_columns(scores: RangeScores, metric: bool) -> dict[str, Any]:
    raw, aligned = scores.raw if metric else NO_RANGE, scores.aligned
    return {
        "valid_pixels": scores.pixels,
        "scale_error": scale_error(scores.ratio) if metric and scores.pixels else math.nan,
        **raw._asdict(),
        "abs_rel_aligned": aligned.abs_rel,
        "rmse_aligned_m": aligned.rmse_m,
        "mae_aligned_m": aligned.mae_m,
        "delta_125_aligned": aligned.delta_125,
        "exact_range": scores.exact,
        "bands": scores.bands if metric else NO_BANDS,
    }


def _confidence(
    prediction: FactoredPrediction, targets: ViewTargets, ranges: RangeComparison
) -> list[tuple[ConfidenceScores, float]]:
    """B * V scores and levels; the error is relative and scale-aligned: a wrong scale is no pixel's fault."""
    counts = [view.pixels for sample in ranges.views for view in sample]
    confidence = prediction.confidence[targets.valid].cpu().split(counts)
    errors = ranges.relative_aligned.cpu().split(counts)
    pairs = [(c.numpy(), e.numpy()) for c, e in zip(confidence, errors, strict=True)]
    return [(confidence_scores(c, e), mean_log(c)) for c, e in pairs]


def _pose_numbers(T: Tensor) -> list[list[PoseNumbers]]:
    T = T.double().cpu()
    numbers = torch.cat([T[..., :3, 3], matrix_to_quat(T[..., :3, :3])], dim=-1).tolist()
    return [[PoseNumbers(*view) for view in sample] for sample in numbers]


def _sample_rows(
    prediction: FactoredPrediction,
    targets: ViewTargets,
    keys: Sequence[Sequence[SampleKey]],
    ranges: RangeComparison,
    clouds: Sequence[tuple[CloudScores, CloudScores]],
) -> list[SampleRow]:
    pairs, aucs = _pair_aucs(prediction, targets)
    vehicle = targets.vehicle.tolist()
    first = [vehicle.index(k) for k in dict.fromkeys(vehicle)]  # one view of each vehicle
    centres = [x.T_ref_view[:, first, :3, 3].double().cpu().numpy() for x in (prediction, targets)]
    return [
        SampleRow(
            scenario=sample[0].scenario,
            frame=sample[0].frame,
            reference_agent=sample[0].agent,
            vehicles=len(first),
            is_metric=metric,
            scale_error=scale_error(ratio) if metric and not math.isnan(ratio) else math.nan,
            pairs=pairs,
            convention_auc_5=auc[0],
            convention_auc_10=auc[1],
            convention_auc_30=auc[2],
            points=fused.every,
            points_filtered=fused.filtered,
            points_alone=alone.every,
            points_filtered_alone=alone.filtered,
            registration=registration_scores(pred, true) if metric else NO_REGISTRATION,
        )
        for sample, metric, ratio, auc, (fused, alone), pred, true in zip(
            keys, targets.is_metric.tolist(), ranges.pooled_ratio, aucs, clouds, *centres, strict=True
        )
    ]


def _pair_aucs(prediction: FactoredPrediction, targets: ViewTargets) -> tuple[int, list[list[float]]]:
    """Number of pairs of views of different vehicles, and B x 3 mean AUC contributions (NaN without a pair).

    Poses that several views share count once.
    """
    V = len(targets.vehicle)
    i, j = torch.triu_indices(V, V, offset=1, device=targets.vehicle.device)
    new = ~torch.tensor(_repeated_poses(prediction, targets), device=i.device)
    different = (targets.vehicle[i] != targets.vehicle[j]) & new[i] & new[j]
    i, j = i[different], j[different]

    def relative(T: Tensor) -> Tensor:
        return invert_rigid(T[:, i].double()) @ T[:, j].double()

    e = pose_errors(relative(prediction.T_ref_view), relative(targets.T_ref_view))
    aucs = [convention_auc(e.rotation_deg, e.direction_deg, t).mean(dim=1) for t in AUC_THRESHOLDS_DEG]
    return len(i), torch.stack(aucs, dim=1).tolist()


class Evaluator:
    """Accumulates rows over batches (and, through :meth:`extend`, over processes).

    Args:
        points: compare fused clouds too (about 0.1 s per sample on one core); their scores are NaN otherwise.
    """

    def __init__(self, points: bool = False) -> None:
        self.points = points
        self.rows: list[ViewRow] = []
        self.samples: list[SampleRow] = []

    def update(
        self,
        prediction: FactoredPrediction,
        targets: ViewTargets,
        keys: Sequence[Sequence[SampleKey]],
    ) -> None:
        """Score one batch, see :func:`score_batch`; no dense tensor is kept."""
        rows, samples = score_batch(prediction, targets, keys, self.points)
        self.extend(rows, samples)

    def extend(self, rows: Iterable[ViewRow], samples: Iterable[SampleRow] = ()) -> None:
        """Add rows scored elsewhere, for instance by another process."""
        self.rows.extend(rows)
        self.samples.extend(samples)

    def summary(self) -> dict[str, float]:
        """Flat named statistics, see :func:`coop3d.evaluation.summarise`."""
        return summarise(self.rows, self.samples)

    def write(self, folder: Path | str) -> dict[str, float]:
        """Write ``per_frame.csv``, ``per_sample.csv`` and ``summary.json``, atomically; return the summary."""
        folder, summary = Path(folder), self.summary()
        folder.mkdir(parents=True, exist_ok=True)
        write_per_frame_csv(self.rows, folder / "per_frame.csv")
        write_per_sample_csv(self.samples, folder / "per_sample.csv")
        write_summary_json(summary, folder / "summary.json")
        return summary
