"""Colour, range and masks of a rig's photographs on a virtual camera."""

from coop3d.stitching.stitcher import (
    CENTRES,
    EXPOSURES,
    KINDS,
    PanoramaStitcher,
    PinholeResampler,
    panorama_frame,
)
from coop3d.stitching.table import RigTable, TableCache, build_table
from coop3d.stitching.torch_backend import StitchedBatch, TorchStitcher

__all__ = [
    "CENTRES",
    "EXPOSURES",
    "KINDS",
    "PanoramaStitcher",
    "PinholeResampler",
    "RigTable",
    "StitchedBatch",
    "TableCache",
    "TorchStitcher",
    "build_table",
    "panorama_frame",
]
