"""What a viewer shows of one cooperative sample: every vehicle's clouds, poses and pictures in one frame.

The objects only; `gather.scene_from_prediction` makes them from a batch.

Everything here stays in OpenCV axes (x right, y down, z forward) of the reference view; only `upright` changes
axes, and only pages and renders call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coop3d.visualization.arrays import RGB
from coop3d.visualization.subsample import range_weight

FloatArray = NDArray[np.floating]

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
    # [N] distance to the true point of the same pixel, NaN = unknown; and what of it stays when the view is put at
    # its true pose, which is the error of geometry and scale alone
    error_m: NDArray[np.float32] | None = None
    error_true_pose_m: NDArray[np.float32] | None = None
    pixel: NDArray[np.int32] | None = None  # [N, 2] column and row in the view's pictures; None: LiDAR
    pixel_angle_rad: float = 0.006  # between neighbouring pixels
    density: float = 1.0  # a pixel at range r was drawn with probability min(1, density * r)

    def __post_init__(self) -> None:
        arrays = (self.rgb, self.range_m, self.kept, self.confidence, self.error_m, self.error_true_pose_m)
        if self.points.shape != (len(self.points), 3) or any(
            a is not None and len(a) != len(self.points) for a in (*arrays, self.pixel)
        ):
            raise ValueError(f"points are {self.points.shape}; every other array must have the same length")
        if self.pixel is not None and self.pixel.shape != (len(self.points), 2):
            raise ValueError(f"pixel is {self.pixel.shape}, expected {(len(self.points), 2)}: column and row")
        if not np.isfinite(self.points).all():
            raise ValueError("points contain NaN or infinity; drop unknown pixels first")

    def spacing_m(self) -> NDArray[np.float32]:
        """[N] distance to the neighbouring point of the same view on a surface that faces the camera."""
        drawn = np.minimum(1.0, self.density * range_weight(self.range_m))
        return self.pixel_angle_rad * self.range_m / np.sqrt(drawn)


@dataclass(frozen=True, kw_only=True)
class OrientedBox:
    """One known object, e.g. of the YAML's ``vehicles``.

    Its own axes are a vehicle's in OpenCV order: x right, y down, z forward.
    """

    name: str
    T_ref_box: NDArray[np.float64]  # [4, 4] rigid; the translation is the box's centre
    half_extent_m: NDArray[np.float64]  # [3] half the width, height and length: along the box's x, y, z

    def __post_init__(self) -> None:
        T, half = np.asarray(self.T_ref_box), np.asarray(self.half_extent_m)
        if T.shape != (4, 4) or half.shape != (3,):
            raise ValueError(
                f"box {self.name!r}: T_ref_box is {T.shape}, half_extent_m {half.shape}; "
                "expected (4, 4) and (3,)"
            )
        if not (np.isfinite(T).all() and np.isfinite(half).all() and (half >= 0).all()):
            raise ValueError(
                f"box {self.name!r} has half extents {half.tolist()} and pose {T.tolist()}; "
                "expected finite numbers and no negative extent"
            )

    def corners(self) -> NDArray[np.float64]:
        """[8, 3] reference frame; bits 0, 1, 2 of a corner's index say right, down, forward."""
        signs = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]) * 2.0 - 1.0
        return signs * self.half_extent_m @ self.T_ref_box[:3, :3].T + self.T_ref_box[:3, 3]


@dataclass(frozen=True, kw_only=True)
class SceneView:
    """One vehicle: its clouds, where it is predicted and known to be, and its pictures."""

    name: str
    predicted: PointSet | None = None
    truth: PointSet | None = None
    lidar: PointSet | None = None  # the sweep of its own LiDAR at the true pose, see `lidar_cloud`
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
    boxes: tuple[OrientedBox, ...] = ()  # known objects around the vehicles

    @property
    def clouds(self) -> list[PointSet]:
        """Every cloud of every view: predicted, true, LiDAR of the first view, then of the next."""
        return [c for v in self.views for c in (v.predicted, v.truth, v.lidar) if c is not None]

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
