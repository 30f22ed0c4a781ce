"""From a batch to a `Scene`: one sample's clouds, subsampled, with colours, errors, poses and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coop3d.types import FactoredPrediction, SampleKey, ViewInputs, ViewTargets
from coop3d.visualization.figures import to_uint8, view_layers
from coop3d.visualization.scene import FloatArray, PointSet, Scene, SceneView
from coop3d.visualization.subsample import THIN_WEIGHT, draw_pixels, range_weight, thin_objects

_MASKED_SHARE = 0.1  # of a cloud's points may be ones the mask rejects: hidden by default
_LIDAR_ANGLE_RAD = 0.004  # between OPV2V's beams, about: 0.47 degrees upwards, 0.1 around


def scene_from_prediction(
    inputs: ViewInputs,
    targets: ViewTargets | None,
    prediction: FactoredPrediction | None,
    keys: Sequence[Sequence[SampleKey]],
    max_points: int = 200_000,
    seed: int = 0,
) -> Scene:
    """Gather the first sample of a batch into a scene, subsampled deterministically.

    Predicted and true clouds of all vehicles share the budget; both draw the same pixels where both exist, so
    they can be compared point by point. Pixels that no camera sees are left out.

    Args:
        inputs: gives colours and camera centres.
        targets: gives true clouds, poses and errors; None without ground truth.
        prediction: gives predicted clouds and poses; None to look at data alone.
        keys: B x V, as in `CoopBatch`.
        max_points: in all clouds together.
        seed: of the subsampling.

    Raises:
        ValueError: if neither targets nor prediction is given, or ``max_points`` is not positive.
    """
    if targets is None and prediction is None:
        raise ValueError("a scene needs targets, a prediction, or both: with neither there are no points")
    if max_points < 1:
        raise ValueError(f"max_points is {max_points}, expected at least 1")
    V = inputs.shape[1]
    budget = max_points // (V * (2 if targets is not None and prediction is not None else 1))
    rng = np.random.default_rng(seed)
    true_points = None if targets is None else to_numpy(targets.points_ref[0])  # [V, H, W, 3]
    pred_points = None if prediction is None else to_numpy(prediction.points_ref[0])
    angle = _pixel_angle(inputs)
    views = []
    for v, name in enumerate(_names(keys[0])):
        rgb = to_uint8(to_numpy(inputs.image[0, v]))
        seen = seen_pixels(inputs, targets, v)
        draw = _Draw(rng.random(seen.shape), budget, angle, _thin(targets, prediction, v, angle))
        truth = predicted = None
        if targets is not None and true_points is not None:
            valid = seen & to_numpy(targets.valid[0, v])
            range_m = to_numpy(targets.range_m[0, v])
            truth = draw.cloud(true_points[v], range_m, valid, valid, rgb=rgb)
        if prediction is not None and pred_points is not None:
            predicted = draw.cloud(
                pred_points[v],
                to_numpy(prediction.range_m[0, v]),
                seen,
                to_numpy(prediction.non_ambiguous[0, v]),
                rgb=rgb,
                confidence=to_numpy(prediction.confidence[0, v]),
                **_errors(targets, prediction, pred_points, true_points, v),
            )
        views.append(
            SceneView(
                name=name,
                predicted=predicted,
                truth=truth,
                T_ref_view_pred=None if prediction is None else _pose(prediction.T_ref_view[0, v]),
                T_ref_view_true=None if targets is None else _pose(targets.T_ref_view[0, v]),
                rig_cameras=_rig_cameras(inputs, v, seen),
                images=view_layers(inputs, targets, prediction, v),
            )
        )
    reference = keys[0][0]
    return Scene(title=f"{reference.scenario} / {reference.frame}", views=tuple(views))


def lidar_cloud(
    points_view: FloatArray, T_ref_view: NDArray[np.floating], max_points: int = 30_000, seed: int = 0
) -> PointSet:
    """A LiDAR sweep as a cloud of a `SceneView`, at the view's true pose.

    Args:
        points_view: [N, 3] metres in the view's frame, whose origin is the sensor; rows with NaN are dropped.
        T_ref_view: [4, 4] true pose of the view.
        max_points: subsampled to this, far points first, as all clouds.
        seed: of the subsampling.
    """
    points_view = points_view[np.isfinite(points_view).all(axis=-1)]
    range_m = np.linalg.norm(points_view, axis=-1).astype(np.float32)
    weight = range_weight(range_m)
    index = draw_pixels(weight, np.random.default_rng(seed).random(len(weight)), max_points)
    points = points_view[index] @ T_ref_view[:3, :3].T + T_ref_view[:3, 3]
    return PointSet(
        points=points.astype(np.float32),
        rgb=np.full((len(index), 3), 150, np.uint8),
        range_m=range_m[index],
        kept=np.ones(len(index), bool),
        pixel_angle_rad=_LIDAR_ANGLE_RAD,
        density=float(len(index) / weight.sum()) if len(index) < len(weight) else 1.0,
    )


@dataclass(frozen=True)
class _Draw:
    """One view's lottery: the same random number per pixel for its predicted and its true cloud."""

    ticket: NDArray[np.float64]  # [H, W] uniform in [0, 1)
    budget: int
    pixel_angle_rad: float
    thin: NDArray[np.bool_]  # [H, W]

    def cloud(
        self,
        points: FloatArray,
        range_m: FloatArray,
        candidate: NDArray[np.bool_],
        kept: NDArray[np.bool_],
        **attributes: NDArray,
    ) -> PointSet:
        """Draw at most ``budget`` of the candidate pixels ([H, W] arrays; points and rgb [H, W, 3])."""
        usable = candidate & np.isfinite(points).all(axis=-1) & np.isfinite(range_m)
        weight = np.where(self.thin, THIN_WEIGHT, 1.0) * range_weight(range_m)
        rejected = self._pick(usable & ~kept, weight, int(self.budget * _MASKED_SHARE))
        chosen = self._pick(usable & kept, weight, self.budget - len(rejected))
        available = weight[usable & kept]
        index = np.concatenate([chosen, rejected])  # kept first: a page hides the rest by drawing fewer
        flat = {k: a.reshape(-1, *a.shape[2:])[index] for k, a in attributes.items()}
        row, column = np.divmod(index, range_m.shape[1])
        return PointSet(
            points=points.reshape(-1, 3)[index].astype(np.float32),
            range_m=range_m.reshape(-1)[index].astype(np.float32),
            kept=kept.reshape(-1)[index],
            pixel=np.stack([column, row], axis=-1).astype(np.int32),
            pixel_angle_rad=self.pixel_angle_rad,
            density=float(len(chosen) / available.sum()) if len(chosen) < len(available) else 1.0,
            **flat,
        )

    def _pick(self, candidate: NDArray[np.bool_], weight: FloatArray, count: int) -> NDArray[np.int64]:
        """Flat indices of at most ``count`` candidates."""
        index = np.flatnonzero(candidate)
        return index[draw_pixels(weight.reshape(-1)[index], self.ticket.reshape(-1)[index], count)]


def _thin(
    targets: ViewTargets | None, prediction: FactoredPrediction | None, view: int, angle: float
) -> NDArray[np.bool_]:
    """[H, W] thin things by the truth where there is one, so that both clouds draw the same pixels."""
    source = prediction if targets is None else targets
    assert source is not None
    return thin_objects(to_numpy(source.range_m[0, view]), angle)


def _errors(
    targets: ViewTargets | None,
    prediction: FactoredPrediction,
    pred_points: FloatArray,
    true_points: FloatArray | None,
    view: int,
) -> dict[str, NDArray[np.float32]]:
    """[H, W] distances to the true point of the same pixel: as predicted, and with the view at its true pose."""
    if targets is None or true_points is None:
        return {}
    own = to_numpy(prediction.points_view[0, view]) - to_numpy(targets.points_view[0, view])
    return {
        "error_m": np.linalg.norm(pred_points[view] - true_points[view], axis=-1).astype(np.float32),
        "error_true_pose_m": np.linalg.norm(own, axis=-1).astype(np.float32),
    }


def _names(keys: Sequence[SampleKey]) -> list[str]:
    """The agents; with several views of one vehicle (the pinhole baseline) also which view."""
    agents = [key.agent for key in keys]
    return [a if agents.count(a) == 1 else f"{a} view {v}" for v, a in enumerate(agents)]


def _pixel_angle(inputs: ViewInputs) -> float:
    """Angle between neighbouring pixels on the middle row, radians; a panorama's when no rays are given."""
    if inputs.rays is None:
        return 2 * np.pi / inputs.shape[3]
    row = to_numpy(inputs.rays[0, 0, inputs.shape[2] // 2])
    return float(np.median(np.linalg.norm(np.diff(row, axis=0), axis=-1)))


def to_numpy(x: Tensor) -> NDArray:
    """On the host, detached; half precision as float32."""
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 or x.dtype == torch.float16 else x).numpy()


def seen_pixels(inputs: ViewInputs, targets: ViewTargets | None, view: int) -> NDArray[np.bool_]:
    """[H, W] pixels of the first sample with colour from a photograph; without targets, those that are not black."""
    if targets is not None:
        return to_numpy(targets.covered[0, view])
    return np.asarray(to_numpy(inputs.image[0, view]).any(axis=0))


def _pose(T: Tensor) -> NDArray[np.float64] | None:
    """[4, 4] in float64; None where the model diverged to NaN."""
    T_numpy = to_numpy(T).astype(np.float64)
    return T_numpy if np.isfinite(T_numpy).all() else None


def _rig_cameras(inputs: ViewInputs, view: int, seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[K, 2, 3] centre and mean direction of the cameras behind a panorama; none where all rays start at 0."""
    if inputs.origins is None or inputs.rays is None or not seen.any():
        return np.zeros((0, 2, 3), np.float32)
    origins = to_numpy(inputs.origins[0, view])[seen][::7]
    rays = to_numpy(inputs.rays[0, view])[seen][::7]
    centres, member = np.unique(np.round(origins, 3), axis=0, return_inverse=True)
    if len(centres) > 16 or not centres.any():
        return np.zeros((0, 2, 3), np.float32)
    directions = np.stack([rays[member.ravel() == k].mean(axis=0) for k in range(len(centres))])
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True).clip(1e-6)
    return np.stack([centres, directions], axis=1).astype(np.float32)
