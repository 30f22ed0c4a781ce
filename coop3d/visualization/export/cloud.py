"""The points of all vehicles of a sample as one cloud, with everything that files carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coop3d.types import FactoredPrediction, SampleKey, ViewInputs, ViewTargets
from coop3d.visualization.arrays import photographs, seen_pixels, to_numpy, view_origins
from coop3d.visualization.export.normals import view_normals
from coop3d.visualization.gather import view_names

Kind = Literal["predicted", "truth"]


@dataclass(frozen=True, kw_only=True)
class ExportCloud:
    """N points of V vehicles in the frame of the reference panorama: OpenCV axes (x right, y down, z forward), metres.

    Every array has N rows but the last two fields, which have one entry per view.
    """

    points: NDArray[np.float32]  # [N, 3] finite
    rgb: NDArray[np.uint8]  # [N, 3]
    normals: NDArray[np.float32]  # [N, 3] unit, facing the camera; NaN = unknown
    range_m: NDArray[np.float32]  # [N] along the ray
    confidence: NDArray[np.float32] | None  # [N] >= 1; None: exact ground truth has none
    vehicle: NDArray[np.uint8]  # [N] index into `names`
    names: tuple[str, ...]
    T_ref_view: NDArray[np.float64]  # [V, 4, 4]; NaN where the model diverged

    def of_vehicle(self, index: int) -> NDArray[np.bool_]:
        """[N] the points of one view."""
        return self.vehicle == index


def export_cloud(
    inputs: ViewInputs,
    targets: ViewTargets | None,
    prediction: FactoredPrediction | None,
    keys: Sequence[Sequence[SampleKey]],
    kind: Kind = "predicted",
    max_points: int | None = None,
    seed: int = 0,
) -> ExportCloud:
    """Every point of the first sample that is known and that the mask keeps, predicted or true.

    Normals come from the full-resolution views.

    Args:
        inputs: colours, rays and origins.
        targets: needed for ``truth``; else says which pixels a photograph covers.
        prediction: needed for ``predicted``.
        keys: B x V.
        kind: which points and poses.
        max_points: a uniform draw of so many; None: all.
        seed: of the draw.

    Raises:
        ValueError: if what ``kind`` needs was not given, there are no rays, or not one point is left.
    """
    source = targets if kind == "truth" else prediction
    if source is None or inputs.rays is None:
        missing = "rays" if source is not None else "targets" if kind == "truth" else "a prediction"
        raise ValueError(f"{kind} points need {missing}, which this sample does not have")
    parts = [_view(inputs, targets, source, v) for v in range(inputs.shape[1])]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    chosen = np.arange(len(columns[0]))
    if len(chosen) == 0:
        raise ValueError(
            f"{keys[0][0]}: no {kind} point to export: every pixel is masked, unknown or not covered"
        )
    if max_points is not None and len(chosen) > max_points:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, max_points, replace=False))
    points, rgb, normals, range_m, confidence, vehicle = (column[chosen] for column in columns)
    return ExportCloud(
        points=points,
        rgb=rgb,
        normals=normals,
        range_m=range_m,
        confidence=None if kind == "truth" else confidence,
        vehicle=vehicle,
        names=view_names(keys[0]),
        T_ref_view=to_numpy(source.T_ref_view[0]).astype(np.float64),
    )


def _view(
    inputs: ViewInputs,
    targets: ViewTargets | None,
    source: ViewTargets | FactoredPrediction,
    v: int,
) -> tuple[NDArray, ...]:
    """points, rgb, normals, range, confidence and view number of one view's usable pixels."""
    assert inputs.rays is not None
    rays = to_numpy(inputs.rays[0, v])
    known = seen_pixels(inputs, targets, v)
    if isinstance(source, ViewTargets):
        known = known & to_numpy(source.valid[0, v])
        confidence = np.ones(known.shape, np.float32)
    else:
        known = known & to_numpy(source.non_ambiguous[0, v])
        confidence = to_numpy(source.confidence[0, v])
    points, in_view = to_numpy(source.points_ref[0, v]), to_numpy(source.points_view[0, v])
    known = known & np.isfinite(points).all(axis=-1)
    normals = view_normals(in_view, rays, view_origins(inputs, rays, v), known)[known]
    R_ref_view = to_numpy(source.T_ref_view[0, v, :3, :3])
    return (
        points[known].astype(np.float32),
        photographs(inputs, v)[known],
        (normals @ R_ref_view.T).astype(np.float32),
        to_numpy(source.range_m[0, v])[known].astype(np.float32),
        confidence[known].astype(np.float32),
        np.full(int(known.sum()), v, np.uint8),
    )
