"""Scenes of the analytic street for the tests of pages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from support.analytic_panoramas import batch, prediction

from coop3d.visualization import OrientedBox, Scene, lidar_cloud, scene_from_prediction


def scene_of(
    noise: float = 0.03, shift_m: float = 0.8, agents: tuple[str, ...] = ("641", "650"), **options: int
) -> Scene:
    """Vehicles on the street with a spoilt prediction: see `support.analytic_panoramas.prediction`."""
    sample = batch(agents)
    predicted = prediction(sample, noise=noise, shift_m=shift_m)
    return scene_from_prediction(sample.inputs, sample.targets, predicted, sample.keys, **options)


def rich_scene() -> Scene:
    """Two vehicles with LiDAR, and two boxes: everything that a page can show."""
    scene = scene_of()
    sweep = np.random.default_rng(0).uniform(-20, 20, (3000, 3)) * [1, 0.05, 1]
    views = tuple(replace(view, lidar=lidar_cloud(sweep, view.T_ref_view_true)) for view in scene.views)
    poses = [np.eye(4), np.eye(4)]
    poses[0][:3, 3], poses[1][:3, 3] = [6, 1.1, 12], [-8, 1.1, 5]
    half = np.array([0.95, 0.8, 2.3])
    boxes = tuple(OrientedBox(name=f"{k + 7}", T_ref_box=T, half_extent_m=half) for k, T in enumerate(poses))
    return replace(scene, views=views, boxes=boxes)
