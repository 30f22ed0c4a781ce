"""Colour, range and masks of a rig's photographs on a virtual camera."""

from coop3d.stitching.stitcher import PanoramaStitcher, PinholeResampler
from coop3d.stitching.table import RigTable, TableCache, build_table

__all__ = ["PanoramaStitcher", "PinholeResampler", "RigTable", "TableCache", "build_table"]
