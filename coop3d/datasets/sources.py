"""Where the views of one vehicle come from: stitched panoramas, or its photographs as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from coop3d.datasets.opv2v import FrameEntry, OPV2VIndex, load_rig_frame
from coop3d.geometry.cameras import Camera
from coop3d.stitching import PanoramaStitcher, PinholeResampler
from coop3d.types import Panorama


class ViewSource(Protocol):
    """Turns one vehicle at one instant into one or several views."""

    index: OPV2VIndex
    views_per_vehicle: int

    def load(self, entry: FrameEntry) -> tuple[Panorama, ...]:
        """Views of one vehicle; raises `DataError` for unusable files."""
        ...


class StitchedPanoramas:
    """One panorama per vehicle, stitched from the photographs when asked for.

    Args:
        images_root, split, depth_root: as `OPV2VIndex`; a null depth root gives panoramas without range.
        camera: the panorama's camera.
        centre: ``lidar`` or ``rig_centroid``, see `PanoramaStitcher`.
    """

    views_per_vehicle = 1

    def __init__(
        self,
        images_root: str | Path,
        split: str,
        camera: Camera,
        depth_root: str | Path | None = None,
        centre: str = "lidar",
    ) -> None:
        self.index = OPV2VIndex(Path(images_root), split, None if depth_root is None else Path(depth_root))
        self.stitcher = PanoramaStitcher(camera, centre)

    def load(self, entry: FrameEntry) -> tuple[Panorama, ...]:
        """The vehicle's panorama."""
        return (self.stitcher(load_rig_frame(entry)),)


class PinholeViews:
    """Every photograph as a view of its own (4 per vehicle): the baseline that panoramas replace.

    Args:
        images_root, split, depth_root: as `OPV2VIndex`.
        width, height: size the photographs are resampled to (multiples of the model's patch).
    """

    def __init__(
        self,
        images_root: str | Path,
        split: str,
        width: int,
        height: int,
        depth_root: str | Path | None = None,
    ) -> None:
        self.index = OPV2VIndex(Path(images_root), split, None if depth_root is None else Path(depth_root))
        self.views_per_vehicle = len(self.index.cameras)
        self.resampler = PinholeResampler(width, height)

    def load(self, entry: FrameEntry) -> tuple[Panorama, ...]:
        """One view per photograph, in the rig's camera order."""
        return self.resampler(load_rig_frame(entry))
