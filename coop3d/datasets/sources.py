"""Where the views of one vehicle come from: stitched panoramas, or its photographs as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from coop3d.datasets.opv2v import FrameEntry, OPV2VIndex, load_rig_frame
from coop3d.geometry.cameras import Camera
from coop3d.stitching import PanoramaStitcher, PinholeResampler
from coop3d.types import Panorama, RigFrame


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
        images_root, split, depth_root: as `OPV2VIndex`.
        camera: the panorama's camera.
        depth_source: where range comes from, see `load_rig_frame`.
        kind, centre, exposure: see `PanoramaStitcher`.
    """

    views_per_vehicle = 1

    def __init__(
        self,
        images_root: str | Path,
        split: str,
        camera: Camera,
        depth_root: str | Path | None = None,
        depth_source: str = "auto",
        kind: str = "rig",
        centre: str = "lidar",
        exposure: str = "as_is",
    ) -> None:
        self.index = OPV2VIndex(Path(images_root), split, None if depth_root is None else Path(depth_root))
        self.stitcher = PanoramaStitcher(camera, kind=kind, centre=centre, exposure=exposure)
        self.depth_source = depth_source

    def load_frame(self, entry: FrameEntry, *, with_sweep: bool = False) -> RigFrame:
        """The vehicle's calibrated photographs and whatever range is to be taken from."""
        partners = self.index.partners_of(entry) if self.depth_source == "fused" else ()
        return load_rig_frame(entry, self.depth_source, partners, with_sweep=with_sweep)

    def load(self, entry: FrameEntry) -> tuple[Panorama, ...]:
        """The vehicle's panorama."""
        return (self.stitcher(self.load_frame(entry)),)


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
