"""Panorama cache: stitch once, train many times. HDF5, lossless, resumable, readable by many workers at once."""

from coop3d.datasets.cache.builder import BuildSummary, CacheBuilder
from coop3d.datasets.cache.format import COMPRESSIONS, DEFAULT_COMPRESSION
from coop3d.datasets.cache.reader import CachedPanoramas, CacheFile
from coop3d.datasets.cache.verify import verify

__all__ = [
    "COMPRESSIONS",
    "DEFAULT_COMPRESSION",
    "BuildSummary",
    "CacheBuilder",
    "CacheFile",
    "CachedPanoramas",
    "verify",
]
