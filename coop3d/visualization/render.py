"""Pictures of a scene from a fixed viewpoint, without a display: z-buffered splats in numpy, lines in OpenCV.

Outlines of vehicles and boxes are solid where they can be seen and dotted, paler, where points hide them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from coop3d.geometry import PinholeCamera, invert_rigid, make_rigid, transform_points
from coop3d.visualization.arrays import RGB
from coop3d.visualization.colour import vehicle_rgb
from coop3d.visualization.figures import BACKGROUND
from coop3d.visualization.scene import PointSet, Scene

_GRID = (205, 210, 217)
_BOX = (90, 90, 100)
_BEHIND = 0.15, 0.02  # metres, and share of the distance: what lies so little behind points is drawn on them
_LARGEST_SPLAT = 13  # pixels, in a picture up to 1300 wide; in a wider one a hundredth of its width
_NEAREST_M = 0.2  # lines nearer to the eye are not drawn
# The 8 corners of a car in the view frame (the sensor sits 1.9 m above the road on the middle of the roof), in the
# order of `OrientedBox.corners`: bits 0, 1, 2 of the index say right, down, forward.
_CAR = np.array([[x, y, z] for z in (-2.4, 2.4) for y in (0.3, 1.9) for x in (-0.95, 0.95)])
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]


@dataclass(frozen=True)
class Viewpoint:
    """A pinhole camera somewhere in the reference frame."""

    camera: PinholeCamera
    T_eye_ref: NDArray[np.float64]  # [4, 4]


def look_at(
    eye: NDArray[np.float64],
    target: NDArray[np.float64],
    size: tuple[int, int] = (1280, 720),
    hfov_deg: float = 60.0,
) -> Viewpoint:
    """A viewpoint at ``eye`` that looks at ``target`` ([3] metres, reference frame), road side down.

    Looking straight down, the reference vehicle's forward direction is up in the picture.
    """
    forward = (target - eye) / np.linalg.norm(target - eye)
    down = np.array([0.0, 1.0, 0.0]) if abs(forward[1]) < 0.999 else np.array([0.0, 0.0, -1.0])
    right = np.cross(down, forward)
    right /= np.linalg.norm(right)
    R_ref_eye = np.stack([right, np.cross(forward, right), forward], axis=-1)
    return Viewpoint(
        PinholeCamera.from_hfov(*size, hfov_deg), invert_rigid(make_rigid(R_ref_eye, eye)).astype(np.float64)
    )


def preset(scene: Scene, name: Literal["oblique", "top"], size: tuple[int, int] = (1280, 720)) -> Viewpoint:
    """Above and behind the reference vehicle, or straight above, so that all vehicles are in the picture."""
    positions = np.array([T[:3, 3] for T in scene.poses] or [np.zeros(3)])
    centre = (positions.min(axis=0) + positions.max(axis=0)) / 2
    centre[1] = -scene.ground_height()
    radius = max(20.0, float(np.linalg.norm(positions - centre, axis=-1).max()))
    if name == "top":
        return look_at(centre + np.array([0.0, -3.4, 0.0]) * radius, centre, size)
    return look_at(centre + np.array([-1.15, -1.65, -2.0]) * radius, centre, size)


def render_scene(
    scene: Scene,
    viewpoint: Viewpoint,
    kind: Literal["predicted", "truth"] = "predicted",
    colour: Literal["photo", "vehicle"] = "photo",
) -> RGB:
    """Draw one kind of cloud of every vehicle, their outlines, the scene's boxes and a 10 m grid.

    Args:
        scene: points that the mask rejects are not drawn.
        viewpoint: e.g. from `preset` or `look_at`.
        kind: predicted or true clouds and poses.
        colour: by photograph or by vehicle.

    Returns:
        [H, W, 3] uint8.
    """
    camera = viewpoint.camera
    image = np.full((camera.height, camera.width, 3), BACKGROUND, np.uint8)
    _draw_grid(image, scene, viewpoint)
    depth = np.full(image.shape[:2], np.inf, np.float32)
    for k, view in enumerate(scene.views):
        cloud = view.predicted if kind == "predicted" else view.truth
        if cloud is None or not cloud.kept.any():
            continue
        flat = np.broadcast_to(np.array(vehicle_rgb(k), np.uint8), cloud.rgb.shape)
        _splat(image, depth, cloud, cloud.rgb if colour == "photo" else flat, viewpoint)
    shaded = _eye_dome_lighting(image, depth)
    for box in scene.boxes:
        _outline(shaded, depth, viewpoint, box.corners(), _BOX, 1)
    for k, view in enumerate(scene.views):
        T_ref_view = view.T_ref_view_pred if kind == "predicted" else view.T_ref_view_true
        if T_ref_view is not None:
            car = np.asarray(transform_points(T_ref_view, _CAR), np.float64)
            _outline(shaded, depth, viewpoint, car, vehicle_rgb(k), 2)
    return shaded


def _outline(
    image: RGB,
    depth: NDArray[np.float32],
    viewpoint: Viewpoint,
    corners: NDArray[np.float64],
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    """The 12 edges of a box given by its 8 corners in the reference frame, and a cross on its front."""
    at = np.asarray(transform_points(viewpoint.T_eye_ref, corners), np.float64)
    for a, b in [*_EDGES, (4, 7), (5, 6)]:
        _hidden_line(image, depth, viewpoint.camera, at[a], at[b], colour, thickness)


def _hidden_line(
    image: RGB,
    depth: NDArray[np.float32],
    camera: PinholeCamera,
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    """A segment between two points of the eye's frame, dotted and paler where points of the picture hide it."""
    ends, _ = camera.project(np.stack([a, b]))
    length = float(np.linalg.norm(ends[1] - ends[0])) if np.isfinite(ends).all() else 2000.0
    samples = a + np.linspace(0, 1, int(np.clip(length, 2, 2000)))[:, None] * (b - a)
    uv, inside = camera.project(samples)
    column, row = np.floor(np.where(inside[:, None], uv, 0)).astype(np.int64).T
    z = samples[:, 2]
    hidden = inside & (z > depth[row, column] * (1 + _BEHIND[1]) + _BEHIND[0])
    for start in range(len(samples) - 1):
        if not (inside[start] and inside[start + 1]) or (hidden[start] and start % 6 > 1):
            continue
        pen = tuple((np.array(colour) // 2 + 110).tolist()) if hidden[start] else colour
        first, last = ((int(column[k]), int(row[k])) for k in (start, start + 1))
        cv2.line(image, first, last, pen, thickness)


def _splat(image: RGB, depth: NDArray[np.float32], cloud: PointSet, rgb: RGB, viewpoint: Viewpoint) -> None:
    """Draw squares as large as the surface each point stands for; the nearest wins at every pixel."""
    points = transform_points(viewpoint.T_eye_ref, cloud.points[cloud.kept].astype(np.float64))
    uv, inside = viewpoint.camera.project(points)
    z = points[inside, 2].astype(np.float32)
    column, row = np.floor(uv[inside]).astype(np.int64).T
    colours = rgb[cloud.kept][inside]
    side = 1.8 * cloud.spacing_m()[cloud.kept][inside] * viewpoint.camera.fx / z
    height, width = depth.shape
    largest = max(_LARGEST_SPLAT, width // 100)
    reach = np.clip(np.round((side - 1) / 2), 0, largest // 2).astype(np.int64)
    for dy in range(-int(reach.max(initial=0)), int(reach.max(initial=0)) + 1):
        for dx in range(-int(reach.max(initial=0)), int(reach.max(initial=0)) + 1):
            r, c = row + dy, column + dx
            use = np.flatnonzero(
                (reach >= max(abs(dx), abs(dy))) & (r >= 0) & (r < height) & (c >= 0) & (c < width)
            )
            use = use[z[use] < depth[r[use], c[use]]]
            use = use[np.argsort(-z[use], kind="stable")]  # on equal pixels numpy keeps the last: the nearest
            depth[r[use], c[use]] = z[use]
            image[r[use], c[use]] = colours[use]


def _eye_dome_lighting(image: RGB, depth: NDArray[np.float32]) -> RGB:
    """Darken pixels that lie behind their neighbours, so that edges read without any normals."""
    log_depth = np.log2(np.where(np.isfinite(depth), depth, np.nan))
    padded = np.pad(log_depth, 2, mode="edge")
    height, width = depth.shape
    occlusion = np.zeros_like(depth)
    for dy, dx in ((-2, 0), (2, 0), (0, -2), (0, 2)):
        neighbour = padded[2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]
        occlusion += np.clip(np.nan_to_num(log_depth - neighbour), 0, 0.2)
    return np.round(image * np.exp(-2.0 * occlusion)[..., None]).astype(np.uint8)


def _draw_grid(image: RGB, scene: Scene, viewpoint: Viewpoint) -> None:
    """Lines every 10 m on the road, in pieces so that those passing the eye are drawn where they can be seen."""
    y = -scene.ground_height()
    steps = np.arange(-100, 101, 10.0)
    for fixed in steps:
        for start in steps[:-1]:
            for a, b in (
                ([fixed, y, start], [fixed, y, start + 10]),
                ([start, y, fixed], [start + 10, y, fixed]),
            ):
                ends = transform_points(viewpoint.T_eye_ref, np.array([a, b]))
                _line(image, viewpoint.camera, ends[0], ends[1], _GRID, 1)


def _line(
    image: RGB,
    camera: PinholeCamera,
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    """A segment between two points of the eye's frame; left out when an end is behind the eye."""
    if a[2] < _NEAREST_M or b[2] < _NEAREST_M:
        return
    uv, _ = camera.project(np.stack([a, b]))
    if np.abs(uv).max() > 1e5:
        return
    start, end = ((int(u), int(v)) for u, v in np.floor(uv))
    cv2.line(image, start, end, colour, thickness, cv2.LINE_AA)
