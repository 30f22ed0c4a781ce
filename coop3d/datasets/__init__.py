"""From files to cooperative samples: OPV2V reader, synthetic OPV2V, sampling, augmentation, collation."""

from coop3d.datasets.augment import Augmentation, mirror, roll_yaw
from coop3d.datasets.cache import CachedPanoramas
from coop3d.datasets.coop import (
    BadSample,
    CooperativeDataset,
    CoopSample,
    collate_coop,
    make_batch,
)
from coop3d.datasets.errors import DataError
from coop3d.datasets.sampling import VehicleSampling
from coop3d.datasets.sources import PinholeViews, StitchedPanoramas, panorama_source

__all__ = [
    "Augmentation",
    "BadSample",
    "CachedPanoramas",
    "CoopSample",
    "CooperativeDataset",
    "DataError",
    "PinholeViews",
    "StitchedPanoramas",
    "VehicleSampling",
    "collate_coop",
    "make_batch",
    "mirror",
    "panorama_source",
    "roll_yaw",
]
