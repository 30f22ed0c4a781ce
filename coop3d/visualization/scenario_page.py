"""The page of a scenario: a slider over its frames, with the fused cloud of each and everybody's trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop3d.files import write_text
from coop3d.geometry import invert_rigid, transform_points
from coop3d.visualization.colour import RANGE_SCALE, vehicle_rgb
from coop3d.visualization.pages import asset, embed_json, fill, page, typed_array
from coop3d.visualization.payloads import points_payload, pose_payload, view_payload
from coop3d.visualization.scene import PointSet, Scene, SceneView, upright

_SCRIPTS = ("common.js", "gl.js", "cloud.js", "scene_lines.js", "scenario.js")
_MOST_PER_FRAME = 60_000  # points: what a laptop's GPU draws between two frames


@dataclass(frozen=True, kw_only=True)
class ScenarioFrame:
    """One instant of a scenario."""

    name: str  # e.g. the tick, "000069"
    scene: Scene  # in the frame of this instant's reference view
    T_world_ref: NDArray[np.float64]  # [4, 4] where that view truly was

    @staticmethod
    def lean(name: str, scene: Scene, T_world_ref: NDArray[np.float64]) -> ScenarioFrame:
        """Without what only the page of one instant shows, so that many can be held: pictures and LiDAR."""
        views = tuple(replace(view, images={}, lidar=None) for view in scene.views)
        return ScenarioFrame(name=name, scene=replace(scene, views=views), T_world_ref=T_world_ref)


def write_scenario_html(
    path: Path,
    title: str,
    frames: Sequence[ScenarioFrame],
    note: str = "",
    max_points: int = 1_000_000,
    fps: float = 10.0,
) -> Path:
    """Write the page of a scenario; it needs no network and no other file.

    All frames stand in the frame of the first one's reference view, so that streets stay and vehicles move. The
    reference's own way through the world is the true one (nothing predicts it); others are placed relative to it.

    Args:
        path: of the HTML file; replaced atomically.
        title: e.g. the scenario.
        frames: in the order of time; vehicles are told apart by the names of their views.
        note: one line under the title, e.g. the checkpoint.
        max_points: of all frames together, shared equally, and at most 60 000 each; a point costs about 11 bytes.
        fps: of playing at normal speed.

    Returns:
        ``path``.

    Raises:
        ValueError: without any frame, or if ``max_points`` leaves none for each.
    """
    body = fill(asset("scenario.html"), {"data": embed_json(scenario_payload(frames, max_points, fps))})
    write_text(Path(path), page(title, note, body, ("scene.css", "scenario.css"), _SCRIPTS))
    return Path(path)


def scenario_payload(frames: Sequence[ScenarioFrame], max_points: int, fps: float) -> dict[str, Any]:
    """Everything the viewer needs, in upright axes of the first reference view (see ``assets/scenario.js``)."""
    if not frames:
        raise ValueError("a scenario needs at least one frame")
    budget = min(max_points // len(frames), _MOST_PER_FRAME)
    if budget < 1:
        raise ValueError(
            f"max_points is {max_points}, expected at least one for each of {len(frames)} frames"
        )
    T_first_world = np.asarray(invert_rigid(frames[0].T_world_ref))
    placed = [_placed(f.scene, T_first_world @ f.T_world_ref, budget) for f in frames]
    shared, photo = view_payload(placed)
    names = list(dict.fromkeys(view.name for scene in placed for view in scene.views))
    payload = []
    for frame, scene in zip(frames, placed, strict=True):
        views = {names.index(view.name): view for view in scene.views}
        clouds = [
            {"vehicle": k, "kind": kind, **_cloud_payload(cloud, next(photo))}
            for k, view in views.items()
            for kind, cloud in (("predicted", view.predicted), ("truth", view.truth))
            if cloud is not None
        ]
        poses = {
            str(k): {"predicted": pose_payload(v.T_ref_view_pred), "truth": pose_payload(v.T_ref_view_true)}
            for k, v in views.items()
        }
        boxes = [upright(box.corners()).round(2).tolist() for box in scene.boxes]
        payload.append({"name": frame.name, "poses": poses, "clouds": clouds, "boxes": boxes})
    return {
        "frames": payload,
        "vehicles": [{"name": name, "colour": list(vehicle_rgb(k))} for k, name in enumerate(names)],
        "fps": fps,
        **shared,
    }


def _placed(scene: Scene, T_first_ref: NDArray[np.float64], budget: int) -> Scene:
    """The scene moved into the first frame, its clouds within the budget, without what the mask rejects."""
    kept = sum(int(c.kept.sum()) for v in scene.views for c in (v.predicted, v.truth) if c is not None)
    share = min(1.0, budget / max(kept, 1))

    def move(view: SceneView) -> SceneView:
        return replace(
            view,
            predicted=_moved(view.predicted, T_first_ref, share),
            truth=_moved(view.truth, T_first_ref, share),
            lidar=None,
            T_ref_view_pred=None if view.T_ref_view_pred is None else T_first_ref @ view.T_ref_view_pred,
            T_ref_view_true=None if view.T_ref_view_true is None else T_first_ref @ view.T_ref_view_true,
        )

    boxes = tuple(replace(b, T_ref_box=T_first_ref @ b.T_ref_box) for b in scene.boxes)
    return replace(scene, views=tuple(map(move, scene.views)), boxes=boxes)


def _moved(cloud: PointSet | None, T: NDArray[np.float64], share: float) -> PointSet | None:
    """A random ``share`` of the kept points, moved, in random order: the viewer draws fewer while it moves."""
    if cloud is None:
        return None
    index = np.random.default_rng(0).permutation(np.flatnonzero(cloud.kept))
    index = index[: int(share * len(index))]
    return PointSet(
        points=transform_points(T, cloud.points[index].astype(np.float64)).astype(np.float32),
        rgb=cloud.rgb[index],
        range_m=cloud.range_m[index],
        kept=np.ones(len(index), bool),
        pixel_angle_rad=cloud.pixel_angle_rad,
        density=cloud.density * share,
    )


def _cloud_payload(cloud: PointSet, photo: NDArray[np.uint8]) -> dict[str, Any]:
    return {
        **points_payload(upright(cloud.points)),
        "photo": typed_array(photo),
        "range": typed_array(RANGE_SCALE.indices(cloud.range_m)),
        "pixelAngle": cloud.pixel_angle_rad,
        "density": cloud.density,
    }
