"""What the pages in 3D share of their data: points, poses, colours, and where to look first (``assets/cloud.js``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop3d.visualization.colour import RANGE_SCALE, UNKNOWN_INDEX, LogScale, quantise_colours, turbo_palette
from coop3d.visualization.pages import typed_array
from coop3d.visualization.scene import Scene, upright
from coop3d.visualization.subsample import FARTHEST_WEIGHT_M, NEAREST_WEIGHT_M

_LARGEST_RADIUS_M = 500.0  # of what is shown at first
_COARSEST_STEP_M = 0.01  # clouds too large for 16-bit steps of this size keep their floats


def view_payload(scenes: Sequence[Scene]) -> tuple[dict[str, Any], Iterator[NDArray[np.uint8]]]:
    """What the viewer needs of all scenes together, which share a frame.

    Returns:
        Palettes, scales, the road's height, and where to look first; and for each cloud of each scene, in the order
        of ``scene.clouds``, [N] its colours as positions in the palette of the photographs.
    """
    clouds = [cloud for scene in scenes for cloud in scene.clouds]
    index, palette = quantise_colours(np.concatenate([np.zeros((0, 3), np.uint8), *(c.rgb for c in clouds)]))
    payload = {
        "photoPalette": typed_array(palette),
        "turbo": typed_array(turbo_palette()),
        "scales": {"range": scale_payload(RANGE_SCALE)},
        "weightLimits": [NEAREST_WEIGHT_M, FARTHEST_WEIGHT_M],
        "ground": scenes[0].ground_height(),
        **_extent(scenes),
    }
    return payload, iter(np.split(index, np.cumsum([len(c.points) for c in clouds])[:-1]))


def _extent(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Where to look first: the vehicles, their middle, and a radius that holds them and most of the surfaces."""
    positions = np.concatenate([np.zeros((0, 3)), *map(_positions, scenes)])
    centre = (positions.min(axis=0) + positions.max(axis=0)) / 2 if len(positions) else np.zeros(3)
    reach = [30.0, *np.linalg.norm(positions - centre, axis=-1)]
    points = np.concatenate([np.zeros((0, 3)), *(c.points[c.kept] for s in scenes for c in s.clouds)])
    if len(points):
        reach.append(min(120.0, float(np.percentile(np.linalg.norm(points - centre, axis=-1), 75))))
    return {
        "centre": upright(centre).tolist(),
        "radius": min(max(reach), _LARGEST_RADIUS_M),
        "positions": upright(positions).round(3).tolist(),
    }


def _positions(scene: Scene) -> NDArray[np.float64]:
    """[N, 3] where vehicles are and where they are predicted, unless that is nowhere near the reference."""
    poses = [T for view in scene.views for T in (view.T_ref_view_true, view.T_ref_view_pred) if T is not None]
    positions = np.array([T[:3, 3] for T in poses]).reshape(-1, 3)
    return positions[np.linalg.norm(positions - positions[:1], axis=-1) < _LARGEST_RADIUS_M]


def scale_payload(scale: LogScale) -> dict[str, Any]:
    """Ends, unit, and ticks as (place from 0 to 1, text)."""
    ticks = scale.ticks()
    return {
        "ticks": [[float(p), f"{t:g}"] for p, t in zip(scale.normalise(np.array(ticks)), ticks, strict=True)],
        "low": scale.low,
        "high": scale.high,
        "unit": scale.unit,
        "unknown": UNKNOWN_INDEX,
    }


def points_payload(points: NDArray[np.float32]) -> dict[str, Any]:
    """[N, 3] as 16-bit steps from the cloud's corner, at most 5 mm off; as floats where steps would be coarser."""
    if len(points) == 0:
        return {"xyz": typed_array(points)}
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    step = np.maximum((high - low) / 65535, 1e-6)
    if step.max() > _COARSEST_STEP_M:
        return {"xyz": typed_array(points)}
    steps = np.round((points - low) / step).astype(np.uint16)
    return {"xyz": typed_array(steps), "low": low.tolist(), "step": step.tolist()}


def pose_payload(T_ref_view: NDArray[np.float64] | None) -> list[list[float]] | None:
    """Upright-from-upright [4, 4]: the same change of axes on both sides."""
    if T_ref_view is None:
        return None
    change = np.eye(4)
    change[:3, :3] = upright(np.eye(3)).T
    return (change @ T_ref_view @ change.T).round(6).tolist()
