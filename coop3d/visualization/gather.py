"""From a batch to a `Scene`: one sample's clouds, subsampled, with colours, errors, poses and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from coop3d.types import FactoredPrediction, SampleKey, ViewInputs, ViewTargets
from coop3d.visualization.arrays import RGB, photographs, seen_pixels, to_numpy
from coop3d.visualization.figures import view_layers
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
    angle = _pixel_angle(inputs)
    views = []
    for v, name in enumerate(view_names(keys[0])):
        rgb, seen = photographs(inputs, v), seen_pixels(inputs, targets, v)
        draw = _Draw(rng.random(seen.shape), budget, angle, _thin(targets, prediction, v, angle))
        views.append(
            SceneView(
                name=name,
                predicted=None if prediction is None else _predicted(draw, prediction, targets, v, rgb, seen),
                truth=None if targets is None else _true(draw, targets, v, rgb, seen),
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


def _true(draw: _Draw, targets: ViewTargets, view: int, rgb: RGB, seen: NDArray[np.bool_]) -> PointSet:
    """A view's cloud where its range is known."""
    points, range_m = to_numpy(targets.points_ref[0, view]), to_numpy(targets.range_m[0, view])
    valid = seen & to_numpy(targets.valid[0, view])
    return draw.cloud(points, range_m, valid, valid, rgb=rgb)


def _predicted(
    draw: _Draw,
    prediction: FactoredPrediction,
    targets: ViewTargets | None,
    view: int,
    rgb: RGB,
    seen: NDArray[np.bool_],
) -> PointSet:
    """A view's cloud wherever a camera sees; with a truth, each point's distance to the true one of its pixel."""
    return draw.cloud(
        to_numpy(prediction.points_ref[0, view]),
        to_numpy(prediction.range_m[0, view]),
        seen,
        to_numpy(prediction.non_ambiguous[0, view]),
        rgb=rgb,
        confidence=to_numpy(prediction.confidence[0, view]),
        **({} if targets is None else _errors(prediction, targets, view)),
    )


def _errors(
    prediction: FactoredPrediction, targets: ViewTargets, view: int
) -> dict[str, NDArray[np.float32]]:
    """[H, W] distances to the true point of the same pixel: as predicted, and with the view at its true pose."""

    def away(predicted: Tensor, true: Tensor) -> NDArray[np.float32]:
        gap = to_numpy(predicted[0, view]) - to_numpy(true[0, view])
        return np.linalg.norm(gap, axis=-1).astype(np.float32)

    return {
        "error_m": away(prediction.points_ref, targets.points_ref),
        "error_true_pose_m": away(prediction.points_view, targets.points_view),
    }


def view_names(keys: Sequence[SampleKey]) -> tuple[str, ...]:
    """The agents; with several views of one vehicle (the pinhole baseline) also which view."""
    agents = [key.agent for key in keys]
    return tuple(a if agents.count(a) == 1 else f"{a} view {v}" for v, a in enumerate(agents))


def _pixel_angle(inputs: ViewInputs) -> float:
    """Angle between neighbouring pixels on the middle row, radians; a panorama's when no rays are given."""
    if inputs.rays is None:
        return 2 * np.pi / inputs.shape[3]
    row = to_numpy(inputs.rays[0, 0, inputs.shape[2] // 2])
    return float(np.median(np.linalg.norm(np.diff(row, axis=0), axis=-1)))


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
