"""Where the views of one vehicle come from: stitched panoramas, cached ones, or its photographs as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from coop3d.datasets.cache.reader import CachedPanoramas
from coop3d.datasets.entries import FrameIndex, VehicleEntry
from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import AUTO, DEFAULT_CAMERAS, FrameEntry, OPV2VIndex, load_rig_frame
from coop3d.datasets.recipe import PanoramaRecipe, settle_rig
from coop3d.geometry.cameras import Camera
from coop3d.geometry.mounted import MountedCamera
from coop3d.stitching import CENTRES, PinholeResampler, panorama_frame
from coop3d.stitching.table import rig_poses
from coop3d.types import Panorama, RigFrame

PANORAMAS = ("raw", "cache")
FRAMES = ("camera", "vehicle")  # of photographs

EntryT = TypeVar("EntryT", bound=VehicleEntry)


class ViewSource(Protocol[EntryT]):
    """Turns one vehicle at one instant into one or several views."""

    views_per_vehicle: int

    @property
    def index(self) -> FrameIndex[EntryT]: ...

    @property
    def location(self) -> str:
        """Folder or file that messages name."""
        ...

    def load(self, entry: EntryT) -> tuple[Panorama, ...]:
        """Views of one vehicle; raises `DataError` for unusable files."""
        ...


class StitchedPanoramas:
    """One panorama per vehicle, stitched from the photographs when asked for.

    Args:
        images_root, split, depth_root, cameras: as `OPV2VIndex`.
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
        cameras: str | Sequence[str] = DEFAULT_CAMERAS,
    ) -> None:
        self.recipe = PanoramaRecipe(camera, depth_source, kind, centre, exposure)
        self.index = OPV2VIndex(
            Path(images_root),
            split,
            None if depth_root is None else Path(depth_root),
            cameras,
            needs_depth=depth_source == "dense",
        )
        self.stitcher = self.recipe.stitcher()

    @property
    def location(self) -> str:
        """Folder of the split."""
        return str(self.index.images_root / self.index.split)

    def load_frame(self, entry: FrameEntry, *, with_sweep: bool = False) -> RigFrame:
        """The vehicle's calibrated photographs and whatever range is to be taken from."""
        return self.recipe.load_frame(entry, self.index.partners_of(entry), with_sweep=with_sweep)

    def stitch(self, frame: RigFrame, T_rig_pano: NDArray[np.float64] | None = None) -> Panorama:
        """The panorama of a frame from `load_frame`; its own frame as the stitcher's."""
        return self.stitcher(frame, T_rig_pano)

    def load(self, entry: FrameEntry) -> tuple[Panorama, ...]:
        """The vehicle's panorama."""
        return (self.stitch(self.load_frame(entry)),)


def panorama_source(
    images_root: str | Path,
    split: str,
    camera: Camera,
    depth_root: str | Path | None = None,
    depth_source: str = "auto",
    kind: str = "rig",
    centre: str = "lidar",
    exposure: str = "as_is",
    panoramas: str = "raw",
    cache_root: str | Path | None = None,
    cameras: str | Sequence[str] = DEFAULT_CAMERAS,
) -> StitchedPanoramas | CachedPanoramas:
    """Panoramas stitched from the files (``raw``), or the same ones read from ``{cache_root}/{split}.h5`` (``cache``).

    Args:
        images_root, split, camera, depth_root, depth_source, kind, centre, exposure, cameras: as
            `StitchedPanoramas`; with ``cache`` the roots are not touched, and a cache made with other settings is
            refused.
        panoramas: ``raw`` or ``cache``.
        cache_root: folder of ``{split}.h5``, or of its shards ``{split}.shard-i-of-n.h5``.

    Raises:
        ValueError: ``panoramas`` is neither, or ``cache_root`` is missing where it is needed.
        DataError: files are missing, or the cache does not hold what is asked for.
    """
    if panoramas == "raw":
        return StitchedPanoramas(
            images_root, split, camera, depth_root, depth_source, kind, centre, exposure, cameras
        )
    if panoramas != "cache":
        raise ValueError(f"panoramas is {panoramas!r}, expected one of {PANORAMAS}")
    if cache_root is None:
        raise DataError(
            "panoramas=cache needs cache_root (machine.panorama_cache_root): the folder that "
            f"scripts/build_panorama_cache.py wrote {split}.h5 to"
        )
    recipe = PanoramaRecipe(camera, depth_source, kind, centre, exposure)
    return CachedPanoramas(Path(cache_root) / f"{split}.h5", recipe, split, cameras)


class PinholeViews:
    """Every photograph as a view of its own (4 per vehicle): the baseline that panoramas replace.

    Frames:
        ``camera`` (default): each photograph in the frame of its own camera, with its camera's pose. Nothing says
            which photographs lie on one rig, as in a network made for 4n unordered pictures.
        ``vehicle``: all photographs of a vehicle in the frame of its panorama, with that panorama's pose. Rays are
            turned by the rig's calibration and start at their camera's centre; pixels, range and masks are those of
            ``camera``. It is what ``model.panorama.fuse_cameras`` asks for.

    Args:
        images_root, split, depth_root, cameras: as `OPV2VIndex`, but ``cameras`` must be names.
        width, height: size the photographs are resampled to (multiples of the model's patch).
        frame: see above.
        centre: where the frame of the vehicle lies, see `PanoramaStitcher`.

    Raises:
        ValueError: ``cameras`` is ``auto``, or ``frame`` or ``centre`` is none of those allowed.
    """

    def __init__(
        self,
        images_root: str | Path,
        split: str,
        width: int,
        height: int,
        depth_root: str | Path | None = None,
        cameras: str | Sequence[str] = DEFAULT_CAMERAS,
        frame: str = "camera",
        centre: str = "lidar",
    ) -> None:
        for name, value, allowed in (("frame", frame, FRAMES), ("centre", centre, CENTRES)):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}, expected one of {allowed}")
        if cameras == AUTO:
            raise ValueError(
                "the pinhole baseline needs the same number of views of every vehicle, but dataset.cameras=auto takes "
                "as many as each frame has; name them, e.g. dataset.cameras=[camera0,camera1,camera2,camera3], or use "
                "a panorama dataset"
            )
        self.index = OPV2VIndex(
            Path(images_root),
            split,
            None if depth_root is None else Path(depth_root),
            cameras,
        )
        self.views_per_vehicle = len(self.index.cameras)
        self.resampler = PinholeResampler(width, height)
        self.frame, self.centre = frame, centre

    @property
    def location(self) -> str:
        """Folder of the split."""
        return str(self.index.images_root / self.index.split)

    def load_frame(self, entry: FrameEntry) -> RigFrame:
        """The vehicle's calibrated photographs with range; on a rig as settled as its panorama's, for ``vehicle``."""
        frame = load_rig_frame(entry)
        return settle_rig(frame) if self.frame == "vehicle" else frame

    def views(self, frame: RigFrame, T_rig_pano: NDArray[np.float64] | None = None) -> tuple[Panorama, ...]:
        """The photographs of a frame from `load_frame`, in the rig's camera order; ``vehicle`` as the stitcher's."""
        photographs = self.resampler(frame)
        if self.frame == "camera":
            return photographs
        if T_rig_pano is None:
            T_rig_pano = panorama_frame(frame, self.centre)
        return _in_vehicle_frame(photographs, frame, T_rig_pano)

    def load(self, entry: FrameEntry) -> tuple[Panorama, ...]:
        """One view per photograph, in the rig's camera order."""
        return self.views(self.load_frame(entry))


def _in_vehicle_frame(
    photographs: Sequence[Panorama], frame: RigFrame, T_rig_pano: NDArray[np.float64]
) -> tuple[Panorama, ...]:
    """The same pixels and ranges; rays, origins and pose in the frame that the vehicle's panorama has."""
    T_world_pano = frame.T_world_rig @ T_rig_pano
    poses = rig_poses([view.T_rig_cam for view in frame.views], T_rig_pano)
    return tuple(
        replace(
            photograph,
            camera=MountedCamera(photograph.camera, T_pano_cam[:3, :3]),
            origins=T_pano_cam[None, :3, 3].astype(np.float32),
            T_world_pano=T_world_pano,
        )
        for photograph, T_pano_cam in zip(photographs, poses, strict=True)
    )
