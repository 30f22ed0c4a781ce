"""Pages and pictures made from the door types; no inference, no display, no network."""

from coop3d.visualization.colour import ERROR_SCALE, RANGE_SCALE, LogScale
from coop3d.visualization.figures import (
    caption,
    contact_sheet,
    grid,
    panorama_figure,
    prediction_figure,
    remove_view_pictures,
    save_png,
    save_view_pictures,
)
from coop3d.visualization.gather import lidar_cloud, scene_from_prediction
from coop3d.visualization.panorama_page import write_panorama_html
from coop3d.visualization.render import Viewpoint, look_at, preset, render_scene
from coop3d.visualization.scenario_page import ScenarioFrame, write_scenario_html
from coop3d.visualization.scene import OrientedBox, PointSet, Scene, SceneView, upright
from coop3d.visualization.scene_page import write_scene_html
from coop3d.visualization.video import frames_per_second, panorama_video_frame, video_file, write_video

__all__ = [
    "ERROR_SCALE",
    "RANGE_SCALE",
    "LogScale",
    "OrientedBox",
    "PointSet",
    "ScenarioFrame",
    "Scene",
    "SceneView",
    "Viewpoint",
    "caption",
    "contact_sheet",
    "frames_per_second",
    "grid",
    "lidar_cloud",
    "look_at",
    "panorama_figure",
    "panorama_video_frame",
    "prediction_figure",
    "preset",
    "remove_view_pictures",
    "render_scene",
    "save_png",
    "save_view_pictures",
    "scene_from_prediction",
    "upright",
    "video_file",
    "write_panorama_html",
    "write_scenario_html",
    "write_scene_html",
    "write_video",
]
