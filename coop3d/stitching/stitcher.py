"""From one calibrated rig frame to a panorama, or to the same rig's pinhole views at the network's size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coop3d.geometry.cameras import Camera, EquirectangularCamera, PinholeCamera
from coop3d.geometry.transforms import invert_rigid
from coop3d.stitching.central import warp_dense
from coop3d.stitching.colour import match_exposure, sample_colour
from coop3d.stitching.depth import EDGE, SURFACE, sample_dense, splat_sparse
from coop3d.stitching.first_stitch import crop_to_aspect, without_geometry
from coop3d.stitching.lidar import sample_lidar
from coop3d.stitching.table import NO_CAMERA, RigTable, TableCache, ground_and_far, rig_poses
from coop3d.types import CameraView, Panorama, RigFrame

KINDS = ("rig", "central", "central_infinite", "first_stitch")
CENTRES = ("lidar", "rig_centroid")
EXPOSURES = ("as_is", "matched")


def panorama_frame(frame: RigFrame, centre: str) -> NDArray[np.float64]:
    """``T_rig_pano`` [4, 4]: the rig's axes, about one of `CENTRES`.

    Raises:
        ValueError: ``centre`` is none of them.
    """
    if centre not in CENTRES:
        raise ValueError(f"centre is {centre!r}, expected one of {CENTRES}")
    T = np.eye(4)
    if centre == "rig_centroid":
        T[:3, 3] = np.mean([v.T_rig_cam[:3, 3] for v in frame.views], axis=0)
    return T


class PanoramaStitcher:
    """Stitch a rig's photographs into one panorama whose pixels know their ray's direction and origin.

    Kinds:
        ``rig`` (default): each pixel takes the colour that its physical camera sees in the pixel's direction; its
            ray starts at that camera's centre. Exact at any distance, no depth needed for colour.
        ``central``: one centre of projection. With dense depth, colour and range are moved exactly and what only the
            centre would see is a hole; without, colour assumes flat ground and a far field, and range comes from
            the LiDAR alone.
        ``central_infinite``: the pixels of ``rig`` with every ray taken to start at the centre, as if the world were
            infinitely far. Points are metres off; for ablation only.
        ``first_stitch``: `central_infinite` of photographs that were first cropped to the panorama's aspect, planar
            depth taken for range: what the team began with, a third covered. For ablation only.

    Args:
        camera: the panorama's camera.
        kind: see above.
        centre: ``lidar`` (the LiDAR's origin) or ``rig_centroid`` (mean of the camera centres).
        exposure: ``as_is``, or ``matched``: brightness evened out across seams, see `match_exposure`.
        supersample: colour samples per pixel and axis; None chooses by the photographs' density.
    """

    def __init__(
        self,
        camera: Camera | None = None,
        *,
        kind: str = "rig",
        centre: str = "lidar",
        exposure: str = "as_is",
        supersample: int | None = None,
    ) -> None:
        for name, value, allowed in (
            ("kind", kind, KINDS), ("centre", centre, CENTRES), ("exposure", exposure, EXPOSURES)
        ):  # fmt: skip
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}, expected one of {allowed}")
        self.kind, self.exposure = kind, exposure
        self.camera = camera if camera is not None else EquirectangularCamera(1008, 252)
        self.centre = centre
        self._tables = TableCache(self.camera, supersample)
        self._proxy_tables = TableCache(self.camera, supersample, ground_and_far)

    def __call__(self, frame: RigFrame, T_rig_pano: NDArray[np.float64] | None = None) -> Panorama:
        """Stitch one frame. In a ``rig`` panorama depth is used for range and masks, never for colour.

        Args:
            frame: as its mounting poses say.
            T_rig_pano: [4, 4] where the panorama's frame lies; None: where `panorama_frame` puts it.
        """
        if T_rig_pano is None:
            T_rig_pano = panorama_frame(frame, self.centre)
        T_world_pano = frame.T_world_rig @ T_rig_pano
        if self.kind == "central":
            panorama = self._central(frame, T_rig_pano)
        elif self.kind == "first_stitch":
            aspect = self.camera.width / self.camera.height
            frame = replace(frame, views=tuple(crop_to_aspect(view, aspect) for view in frame.views))
            table = self._table(frame, T_rig_pano, self._tables)
            panorama = without_geometry(_fill(frame, frame.views, table, T_world_pano), table)
        else:
            table = self._table(frame, T_rig_pano, self._tables)
            panorama = _fill(frame, frame.views, table, T_world_pano)
            if self.kind == "central_infinite":
                panorama = replace(panorama, kind="central", origins=np.zeros_like(panorama.origins))
        if self.exposure == "matched":
            rgb = match_exposure(panorama.rgb, panorama.source, len(frame.views))
            panorama = replace(panorama, rgb=rgb)
        return panorama

    def table(self, frame: RigFrame) -> RigTable:
        """The fixed look-up of this frame's rig, built on first use."""
        return self._table(frame, panorama_frame(frame, self.centre), self._tables)

    def _table(self, frame: RigFrame, T_rig_pano: NDArray[np.float64], tables: TableCache) -> RigTable:
        poses = rig_poses([v.T_rig_cam for v in frame.views], T_rig_pano)
        return tables.get([v.camera for v in frame.views], poses)

    def _central(self, frame: RigFrame, T_rig_pano: NDArray[np.float64]) -> Panorama:
        T_world_pano = frame.T_world_rig @ T_rig_pano
        if not frame.depth_is_dense:
            table = self._table(frame, T_rig_pano, self._proxy_tables)
            panorama = _fill(frame, frame.views, table.from_one_centre, T_world_pano, colours=table)
            origins = np.zeros((len(frame.views), 3), np.float32)
            return replace(panorama, kind="central", source=table.source, origins=origins)
        image = warp_dense(frame.views, self._table(frame, T_rig_pano, self._tables))
        return Panorama(
            key=frame.key,
            camera=self.camera,
            kind="central",
            rgb=image.rgb,
            range_m=image.range_m,
            source=image.source,
            origins=np.zeros((len(frame.views), 3), np.float32),
            covered=image.source != NO_CAMERA,
            valid=np.isfinite(image.range_m),
            non_ambiguous=image.non_ambiguous,
            mask_known=image.mask_known,
            T_world_pano=T_world_pano,
        )


class PinholeResampler:
    """The baseline without stitching: every photograph of a rig as a view of its own, at the network's size.

    The resized camera keeps the photograph's field of view, so pixels may become slightly non-square.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._tables: dict[PinholeCamera, TableCache] = {}

    def __call__(self, frame: RigFrame) -> tuple[Panorama, ...]:
        """One view per photograph, in the frame of its own camera."""
        return tuple(self._resample(frame, view) for view in frame.views)

    def _resample(self, frame: RigFrame, view: CameraView) -> Panorama:
        physical = view.camera
        sx, sy = self.width / physical.width, self.height / physical.height
        virtual = PinholeCamera(
            self.width, self.height, physical.fx * sx, physical.fy * sy, physical.cx * sx, physical.cy * sy
        )
        cache = self._tables.setdefault(virtual, TableCache(virtual))
        table = cache.get([physical], [np.eye(4)])
        return _fill(frame, (view,), table, frame.T_world_rig @ view.T_rig_cam)


def _fill(
    frame: RigFrame,
    views: tuple[CameraView, ...],
    table: RigTable,
    T_world_pano: NDArray[np.float64],
    colours: RigTable | None = None,
) -> Panorama:
    """Fields of a panorama by one table, its colours by another where given."""
    T_virtual_rig = np.asarray(invert_rigid(T_world_pano), np.float64) @ frame.T_world_rig
    range_m, non_ambiguous, mask_known = _range_and_masks(frame, views, table, T_virtual_rig)
    return Panorama(
        key=frame.key,
        camera=table.virtual,
        kind="rig",
        rgb=sample_colour([v.image for v in views], colours or table),
        range_m=range_m,
        source=table.source,
        origins=table.origins,
        covered=table.covered,
        valid=np.isfinite(range_m),
        non_ambiguous=non_ambiguous,
        mask_known=mask_known,
        T_world_pano=T_world_pano,
    )


def _range_and_masks(
    frame: RigFrame, views: tuple[CameraView, ...], table: RigTable, T_virtual_rig: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """range_m, non_ambiguous, mask_known of DESIGN section 4 from whatever depth the frame has."""
    uncovered = ~table.covered  # known to be ambiguous: no camera looks there
    z_m = [v.z_m for v in views if v.z_m is not None]
    if frame.depth_is_dense and len(z_m) == len(views):
        range_m, seen = sample_dense(z_m, table)
        return range_m, seen == SURFACE, seen != EDGE
    if frame.sweeps:
        range_m = sample_lidar(frame.sweeps, table, T_virtual_rig)
    elif len(z_m) == len(views):
        range_m = splat_sparse(z_m, table)
    else:
        return np.full(uncovered.shape, np.nan, np.float32), np.zeros_like(uncovered), uncovered
    measured = np.isfinite(range_m)  # an unhit pixel is unknown, not ambiguous
    return range_m, measured, measured | uncovered
