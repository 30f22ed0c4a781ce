"""Colour, range and masks of a rig's photographs on a virtual camera."""

from coop3d.stitching.stitcher import (
    CENTRES,
    EXPOSURES,
    KINDS,
    PanoramaStitcher,
    PinholeResampler,
    panorama_frame,
)
from coop3d.stitching.table import RigTable, build_table
from coop3d.stitching.torch_backend import TorchStitcher

__all__ = [
    "CENTRES",
    "EXPOSURES",
    "KINDS",
    "PanoramaStitcher",
    "PinholeResampler",
    "RigTable",
    "TorchStitcher",
    "build_table",
    "panorama_frame",
]
