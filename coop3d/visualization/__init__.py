"""Pages and pictures made from the door types; no inference, no display, no network."""

from coop3d.visualization.colour import ERROR_SCALE, RANGE_SCALE, LogScale
from coop3d.visualization.figures import (
    caption,
    contact_sheet,
    grid,
    panorama_figure,
    prediction_figure,
    save_png,
)
from coop3d.visualization.panorama_page import write_panorama_html
from coop3d.visualization.render import Viewpoint, look_at, preset, render_scene
from coop3d.visualization.scene import PointSet, Scene, SceneView, scene_from_prediction, upright
from coop3d.visualization.scene_page import write_scene_html
from coop3d.visualization.selection import add_frame_arguments, select_entries
from coop3d.visualization.video import panorama_video_frame, write_video

__all__ = [
    "ERROR_SCALE",
    "RANGE_SCALE",
    "LogScale",
    "PointSet",
    "Scene",
    "SceneView",
    "Viewpoint",
    "add_frame_arguments",
    "caption",
    "contact_sheet",
    "grid",
    "look_at",
    "panorama_figure",
    "panorama_video_frame",
    "prediction_figure",
    "preset",
    "render_scene",
    "save_png",
    "scene_from_prediction",
    "select_entries",
    "upright",
    "write_panorama_html",
    "write_scene_html",
    "write_video",
]
