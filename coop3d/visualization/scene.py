"""What a viewer shows of one cooperative sample: every vehicle's predicted and true points in one frame.

Everything here stays in OpenCV axes (x right, y down, z forward) of the reference view; only `upright` changes
axes, and only pages and renders call it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coop3d.types import FactoredPrediction, SampleKey, ViewInputs, ViewTargets
from coop3d.visualization.figures import RGB, to_uint8, view_layers

FloatArray = NDArray[np.floating]

# Points are drawn with probability proportional to range between these limits: the ground at the bumper does
# not use up the budget that a pedestrian at 60 m needs, and the far background does not either.
NEAREST_WEIGHT_M, FARTHEST_WEIGHT_M = 2.0, 80.0
_MASKED_SHARE = 0.1  # of a cloud's points may be ones the mask rejects: hidden by default
_UPRIGHT_CV = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
_DEFAULT_SENSOR_HEIGHT_M = 1.9  # OPV2V's LiDAR above the road


def upright(vectors: FloatArray) -> FloatArray:
    """[..., 3] from OpenCV axes to the viewer's: x right, y forward, z up (a rotation: det +1)."""
    return vectors @ _UPRIGHT_CV.T.astype(vectors.dtype)


@dataclass(frozen=True, kw_only=True)
class PointSet:
    """Points of one view with what they can be coloured by; ordinary arrays, all of length N."""

    points: NDArray[np.float32]  # [N, 3] metres, reference frame, finite
    rgb: NDArray[np.uint8]  # [N, 3] colour in the photograph
    range_m: NDArray[np.float32]  # [N] along the ray
    kept: NDArray[np.bool_]  # [N] the mask says that a surface is here
    confidence: NDArray[np.float32] | None = None  # [N] >= 1
    error_m: NDArray[np.float32] | None = (
        None  # [N] distance to the true point of the same pixel, NaN = unknown
    )
    pixel_angle_rad: float = 0.006  # between neighbouring pixels
    density: float = 1.0  # a pixel at range r was drawn with probability min(1, density * r)

    def __post_init__(self) -> None:
        arrays = (self.rgb, self.range_m, self.kept, self.confidence, self.error_m)
        if self.points.shape != (len(self.points), 3) or any(
            a is not None and len(a) != len(self.points) for a in arrays
        ):
            raise ValueError(f"points are {self.points.shape}; every other array must have the same length")
        if not np.isfinite(self.points).all():
            raise ValueError("points contain NaN or infinity; drop unknown pixels first")

    def spacing_m(self) -> NDArray[np.float32]:
        """[N] distance to the neighbouring point of the same view on a surface that faces the camera."""
        weight = np.clip(self.range_m, NEAREST_WEIGHT_M, FARTHEST_WEIGHT_M)
        return self.pixel_angle_rad * self.range_m / np.sqrt(np.minimum(1.0, self.density * weight))


@dataclass(frozen=True, kw_only=True)
class SceneView:
    """One vehicle: its clouds, where it is predicted and known to be, and its pictures."""

    name: str
    predicted: PointSet | None = None
    truth: PointSet | None = None
    T_ref_view_pred: NDArray[np.float64] | None = None  # [4, 4]
    T_ref_view_true: NDArray[np.float64] | None = None  # [4, 4]
    rig_cameras: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 2, 3), np.float32)
    )  # [K, 2, 3] each camera's centre and mean viewing direction, view frame
    images: Mapping[str, RGB] = field(default_factory=dict)  # title -> [H, W, 3]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One instant of several vehicles, view 0 first: what `write_scene_html` and `render_scene` take."""

    title: str
    views: tuple[SceneView, ...]

    @property
    def clouds(self) -> list[PointSet]:
        """Every cloud of every view."""
        return [c for view in self.views for c in (view.predicted, view.truth) if c is not None]

    @property
    def poses(self) -> list[NDArray[np.float64]]:
        """Every known pose: the true one of a view where there is one, else the predicted one."""
        found = (v.T_ref_view_pred if v.T_ref_view_true is None else v.T_ref_view_true for v in self.views)
        return [T for T in found if T is not None]

    def ground_height(self) -> float:
        """Height (upright z, usually about -1.9 m) of the road: the fullest 10 cm layer below the sensors.

        True points decide where there are any; falls back to OPV2V's sensor height.
        """
        clouds = [v.truth for v in self.views if v.truth is not None and len(v.truth.points)] or self.clouds
        heights = np.concatenate([[0.0], *(-cloud.points[cloud.kept, 1] for cloud in clouds)])
        near = heights[(heights > -4.0) & (heights < -0.8)]
        if len(near) < 100:
            return -_DEFAULT_SENSOR_HEIGHT_M
        counts, edges = np.histogram(near, bins=32, range=(-4.0, -0.8))
        k = int(counts.argmax())
        return float(edges[k] + edges[k + 1]) / 2


def scene_from_prediction(
    inputs: ViewInputs,
    targets: ViewTargets | None,
    prediction: FactoredPrediction | None,
    keys: Sequence[Sequence[SampleKey]],
    sample: int = 0,
    max_points: int = 200_000,
    seed: int = 0,
) -> Scene:
    """Gather one sample of a batch into a scene, subsampled deterministically.

    Predicted and true clouds of all vehicles share the budget; both draw the same pixels where both exist, so
    they can be compared point by point. Pixels that no camera sees are left out.

    Args:
        inputs: gives colours and camera centres.
        targets: gives true clouds, poses and errors; None without ground truth.
        prediction: gives predicted clouds and poses; None to look at data alone.
        keys: B x V, as in `CoopBatch`.
        sample: position in the batch.
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
    true_points = None if targets is None else _numpy(targets.points_ref[sample])  # [V, H, W, 3]
    pred_points = None if prediction is None else _numpy(prediction.points_ref[sample])
    angle = _pixel_angle(inputs, sample)
    views = []
    for v, name in enumerate(_names(keys[sample])):
        rgb = to_uint8(_numpy(inputs.image[sample, v]))
        seen = _seen(inputs, targets, sample, v)
        draw = _Draw(rng.random(seen.shape), budget, angle)
        truth = predicted = None
        if targets is not None and true_points is not None:
            valid = seen & _numpy(targets.valid[sample, v])
            truth = draw.cloud(true_points[v], rgb, _numpy(targets.range_m[sample, v]), valid, valid)
        if prediction is not None and pred_points is not None:
            error = None
            if true_points is not None:
                error = np.linalg.norm(pred_points[v] - true_points[v], axis=-1).astype(np.float32)
            predicted = draw.cloud(
                pred_points[v],
                rgb,
                _numpy(prediction.range_m[sample, v]),
                seen,
                _numpy(prediction.non_ambiguous[sample, v]),
                _numpy(prediction.confidence[sample, v]),
                error,
            )
        views.append(
            SceneView(
                name=name,
                predicted=predicted,
                truth=truth,
                T_ref_view_pred=None if prediction is None else _pose(prediction.T_ref_view[sample, v]),
                T_ref_view_true=None if targets is None else _pose(targets.T_ref_view[sample, v]),
                rig_cameras=_rig_cameras(inputs, sample, v, seen),
                images=view_layers(inputs, targets, prediction, sample, v),
            )
        )
    reference = keys[sample][0]
    return Scene(title=f"{reference.scenario} / {reference.frame}", views=tuple(views))


@dataclass(frozen=True)
class _Draw:
    """One view's lottery: the same random number per pixel for its predicted and its true cloud."""

    ticket: NDArray[np.float64]  # [H, W] uniform in [0, 1)
    budget: int
    pixel_angle_rad: float

    def cloud(
        self,
        points: FloatArray,
        rgb: RGB,
        range_m: FloatArray,
        candidate: NDArray[np.bool_],
        kept: NDArray[np.bool_],
        confidence: FloatArray | None = None,
        error_m: FloatArray | None = None,
    ) -> PointSet:
        """Draw at most ``budget`` of the candidate pixels ([H, W] arrays; points and rgb [H, W, 3])."""
        finite = np.isfinite(points).all(axis=-1) & np.isfinite(range_m)
        rejected = self._pick(candidate & finite & ~kept, range_m, int(self.budget * _MASKED_SHARE))
        chosen = self._pick(candidate & finite & kept, range_m, self.budget - len(rejected))
        available = range_m[candidate & finite & kept]
        weight = np.clip(available, NEAREST_WEIGHT_M, FARTHEST_WEIGHT_M)
        index = np.concatenate([chosen, rejected])  # kept first: a page hides the rest by drawing fewer

        def flat(a: FloatArray | None) -> NDArray[np.float32] | None:
            return None if a is None else a.reshape(-1)[index].astype(np.float32)

        return PointSet(
            points=points.reshape(-1, 3)[index].astype(np.float32),
            rgb=rgb.reshape(-1, 3)[index],
            range_m=range_m.reshape(-1)[index].astype(np.float32),
            kept=kept.reshape(-1)[index],
            confidence=flat(confidence),
            error_m=flat(error_m),
            pixel_angle_rad=self.pixel_angle_rad,
            density=float(len(chosen) / weight.sum()) if len(chosen) < len(available) else 1.0,
        )

    def _pick(self, candidate: NDArray[np.bool_], range_m: FloatArray, count: int) -> NDArray[np.int64]:
        """Flat indices of at most ``count`` candidates, drawn without replacement, weighted by range.

        Efraimidis and Spirakis: the ``count`` largest ``ticket ** (1 / weight)`` are such a draw.
        """
        index = np.flatnonzero(candidate)
        if len(index) <= count:
            return index
        weight = np.clip(range_m.reshape(-1)[index], NEAREST_WEIGHT_M, FARTHEST_WEIGHT_M)
        keys = np.log(self.ticket.reshape(-1)[index] + 1e-300) / weight
        return np.sort(index[np.argpartition(-keys, count)[:count]])


def _names(keys: Sequence[SampleKey]) -> list[str]:
    """The agents; with several views of one vehicle (the pinhole baseline) also which view."""
    agents = [key.agent for key in keys]
    return [a if agents.count(a) == 1 else f"{a} view {v}" for v, a in enumerate(agents)]


def _pixel_angle(inputs: ViewInputs, sample: int) -> float:
    """Angle between neighbouring pixels on the middle row, radians; a panorama's when no rays are given."""
    if inputs.rays is None:
        return 2 * np.pi / inputs.shape[3]
    row = _numpy(inputs.rays[sample, 0, inputs.shape[2] // 2])
    return float(np.median(np.linalg.norm(np.diff(row, axis=0), axis=-1)))


def _numpy(x: Tensor) -> NDArray:
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 or x.dtype == torch.float16 else x).numpy()


def _seen(inputs: ViewInputs, targets: ViewTargets | None, sample: int, view: int) -> NDArray[np.bool_]:
    """[H, W] pixels with colour from a photograph; without targets, those that are not black."""
    if targets is not None:
        return _numpy(targets.covered[sample, view])
    return np.asarray(_numpy(inputs.image[sample, view]).any(axis=0))


def _pose(T: Tensor) -> NDArray[np.float64] | None:
    """[4, 4] in float64; None where the model diverged to NaN."""
    T_numpy = _numpy(T).astype(np.float64)
    return T_numpy if np.isfinite(T_numpy).all() else None


def _rig_cameras(inputs: ViewInputs, sample: int, view: int, seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[K, 2, 3] centre and mean direction of the cameras behind a panorama; none where all rays start at 0."""
    if inputs.origins is None or inputs.rays is None or not seen.any():
        return np.zeros((0, 2, 3), np.float32)
    origins = _numpy(inputs.origins[sample, view])[seen][::7]
    rays = _numpy(inputs.rays[sample, view])[seen][::7]
    centres, member = np.unique(np.round(origins, 3), axis=0, return_inverse=True)
    if len(centres) > 16 or not centres.any():
        return np.zeros((0, 2, 3), np.float32)
    directions = np.stack([rays[member.ravel() == k].mean(axis=0) for k in range(len(centres))])
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True).clip(1e-6)
    return np.stack([centres, directions], axis=1).astype(np.float32)
