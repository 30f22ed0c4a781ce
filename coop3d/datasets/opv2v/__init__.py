"""OPV2V on disk: index, safe YAML, photographs, depth, point clouds; calibrated frames in OpenCV axes."""

from coop3d.datasets.opv2v.boxes import VehicleBox, load_boxes
from coop3d.datasets.opv2v.entry import FrameEntry
from coop3d.datasets.opv2v.frame import DEPTH_SOURCES, load_rig_frame, read_depth, read_image
from coop3d.datasets.opv2v.index import DEFAULT_CAMERAS, OPV2VIndex
from coop3d.datasets.opv2v.layout import LAYOUT_MARK, LayoutIndex, is_layout_only
from coop3d.datasets.opv2v.listing import AUTO, Skipped
from coop3d.datasets.opv2v.pcd import read_pcd
from coop3d.datasets.opv2v.reported import load_reported_pose
from coop3d.datasets.opv2v.sweeps import load_sweeps
from coop3d.datasets.opv2v.yaml_io import load_yaml, number_array

__all__ = [
    "AUTO",
    "DEFAULT_CAMERAS",
    "DEPTH_SOURCES",
    "LAYOUT_MARK",
    "FrameEntry",
    "LayoutIndex",
    "OPV2VIndex",
    "Skipped",
    "VehicleBox",
    "is_layout_only",
    "load_boxes",
    "load_reported_pose",
    "load_rig_frame",
    "load_sweeps",
    "load_yaml",
    "number_array",
    "read_depth",
    "read_image",
    "read_pcd",
]
