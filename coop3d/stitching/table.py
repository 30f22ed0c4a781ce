"""Which photograph, and where in it, each pixel of a virtual camera looks: one fixed table per rig."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from coop3d.geometry.cameras import Camera, PinholeCamera, pixel_centres
from coop3d.geometry.transforms import invert_rigid

NO_CAMERA = 255
GROUND_M, FAR_M = 1.9, 40.0  # from the centre down to the road, and to all else, where nothing is known
BAND_ROWS = 12  # virtual rows per piece of work, so that the sub-samples stay in the processor's cache
PAD = 2  # pixels around every depth image, so that looking at neighbours needs no test for the border


@dataclass(frozen=True)
class DepthLookup:
    """Where the N virtual pixels of one camera look in its depth image with `PAD` pixels around it."""

    pixel: NDArray[np.int32]  # [N] flat index of the virtual pixel
    nearest: NDArray[np.int32]  # [N] flat index of the padded image's pixel that contains the sample
    dx: NDArray[np.float32]  # [N] sample minus centre of that pixel, to the right, in pixels (-0.5 to 0.5)
    dy: NDArray[np.float32]  # [N] the same, down
    range_per_z: NDArray[np.float32]  # [N]

    @property
    def arrays(self) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
        """(pixel, nearest, dx, dy, range_per_z)."""
        return self.pixel, self.nearest, self.dx, self.dy, self.range_per_z


AtlasMaps = tuple[NDArray[np.int16], NDArray[np.uint16]]  # cv2 maps of n samples, [n, H, W, 2] and [n, H, W]


@dataclass(frozen=True)
class RigTable:
    """Fixed look-up from the pixels of a virtual camera to the photographs of one rig.

    Exact at any distance: a pixel takes the colour its own physical camera sees *in the pixel's direction*, and
    its ray starts at that camera's centre. The photographs are addressed as an atlas, stacked top to bottom.
    """

    virtual: Camera
    cameras: tuple[PinholeCamera, ...]
    T_virtual_cam: tuple[NDArray[np.float64], ...]  # K rigid [4, 4]
    source: NDArray[np.uint8]  # [H, W] camera of each pixel, 255 = none
    uv: NDArray[np.float32]  # [H, W, 2] continuous coordinates in that photograph; NaN where none
    range_per_z: NDArray[np.float32]  # [H, W] range along the ray per metre of z-depth in that photograph
    supersample: int  # S: colour is averaged over every second cell of an S x S grid in each pixel
    atlas_maps: AtlasMaps

    @property
    def covered(self) -> NDArray[np.bool_]:
        """[H, W] True where some camera sees the pixel's direction."""
        return self.source != NO_CAMERA

    @property
    def origins(self) -> NDArray[np.float32]:
        """[K, 3] camera centres in the virtual camera's frame."""
        return np.stack([T[:3, 3] for T in self.T_virtual_cam]).astype(np.float32)

    @cached_property
    def from_one_centre(self) -> RigTable:
        """The same pixels as if one camera at the virtual centre had taken them all (for LiDAR range only)."""
        source = np.where(self.covered, 0, NO_CAMERA).astype(np.uint8)
        return replace(self, cameras=self.cameras[:1], T_virtual_cam=(np.eye(4),), source=source)

    @cached_property
    def axes(self) -> NDArray[np.float32]:
        """[K, 3] optical axes in the virtual camera's frame."""
        return np.stack([T[:3, 2] for T in self.T_virtual_cam]).astype(np.float32)

    @cached_property
    def least_cosines(self) -> NDArray[np.float32]:
        """[K] cosine of the widest angle between a camera's axis and a direction of its pixels (2 if it has none)."""
        cosines = self.virtual.rays() @ self.axes.T.astype(np.float64)
        return np.array(
            [cosines[self.source == k, k].min(initial=2.0) - 0.02 for k in range(len(self.cameras))],
            np.float32,
        )

    @cached_property
    def rays(self) -> NDArray[np.float32]:
        """[H, W, 3] unit rays of the virtual camera."""
        return self.virtual.rays().astype(np.float32)

    @cached_property
    def bands(self) -> tuple[tuple[slice, tuple[slice, ...]], ...]:
        """Rows in groups of `BAND_ROWS`, each with the spans of columns that have any covered pixel there."""
        found = []
        for top in range(0, self.source.shape[0], BAND_ROWS):
            rows = slice(top, min(top + BAND_ROWS, self.source.shape[0]))
            seen = np.concatenate([[False], self.covered[rows].any(axis=0), [False]])
            starts, ends = np.flatnonzero(~seen[:-1] & seen[1:]), np.flatnonzero(seen[:-1] & ~seen[1:])
            found.append((rows, tuple(slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True))))
        return tuple(found)

    @cached_property
    def depth_lookups(self) -> tuple[DepthLookup, ...]:
        """The table as flat lists, one per camera, for sampling depth images."""
        return tuple(self._depth_lookup(k) for k in range(len(self.cameras)))

    def _depth_lookup(self, k: int) -> DepthLookup:
        pixel = np.flatnonzero(self.source == k)
        nearest, dx, dy = padded_lookup(self.uv.reshape(-1, 2)[pixel], self.cameras[k].width)
        return DepthLookup(
            pixel=pixel.astype(np.int32),
            nearest=nearest,
            dx=dx,
            dy=dy,
            range_per_z=self.range_per_z.ravel()[pixel],
        )

    @cached_property
    def pixel_of(self) -> tuple[NDArray[np.int64], ...]:
        """K arrays [h, w]: flat index of the virtual pixel each photograph pixel looks into.

        -1 where the direction leaves the virtual image or that pixel belongs to another camera.
        """
        return tuple(self._pixel_of(k) for k in range(len(self.cameras)))

    def _pixel_of(self, k: int) -> NDArray[np.int64]:
        W = self.source.shape[1]
        directions = self.cameras[k].rays() @ self.T_virtual_cam[k][:3, :3].T
        uv, inside = self.virtual.project(directions)
        column, row = np.where(inside[..., None], uv, 0).astype(np.int64).reshape(-1, 2).T
        flat = row * W + column
        mine = inside.ravel() & (self.source.ravel()[flat] == k)
        return np.where(mine, flat, -1).reshape(inside.shape)


def padded_lookup(
    uv: NDArray[np.floating], width: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """`DepthLookup`'s (nearest, dx, dy) of N samples [N, 2] inside an image of this width."""
    pixel = uv.astype(np.int64)
    dx, dy = (uv - pixel - 0.5).T.astype(np.float32)
    nearest = (pixel[:, 1] + PAD) * (width + 2 * PAD) + pixel[:, 0] + PAD
    return nearest.astype(np.int32), np.ascontiguousarray(dx), np.ascontiguousarray(dy)


Proxy = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # [..., 3] unit rays to [...] metres


def ground_and_far(rays: NDArray[np.float64]) -> NDArray[np.float64]:
    """A scene to assume where nothing is known: flat ground below the centre, all else far away.

    Args:
        rays: [..., 3] unit, from the centre.

    Returns:
        [...] metres along each.
    """
    return GROUND_M / np.maximum(rays[..., 1], GROUND_M / FAR_M)


def build_table(
    virtual: Camera,
    cameras: Sequence[PinholeCamera],
    T_virtual_cam: Sequence[NDArray[np.float64]],
    supersample: int | None = None,
    proxy: Proxy | None = None,
) -> RigTable:
    """Choose a camera for every virtual pixel and compute where it looks.

    Among the cameras that see a direction inside their image, the one whose optical axis is closest wins: that
    is where a photograph is sharpest and farthest from its border, and it depends on the rig only, so seams stand
    still over time.

    Args:
        virtual: panorama (or pinhole) camera to fill.
        cameras: K physical cameras.
        T_virtual_cam: K rigid [4, 4].
        supersample: S; colour is sampled at every second cell (as on a chessboard) of an S x S grid in each pixel.
            None: the photograph's own density at the image centre (1 to 4), so that dense photographs do not alias.
        proxy: assumed distance from the virtual centre along each ray; pixels then look at that point instead of
            in the ray's direction (an approximation wherever the world is elsewhere). None: infinitely far.
    """
    rays = virtual.rays()
    H, W = rays.shape[:2]
    best = np.full((H, W), -np.inf)
    source = np.full((H, W), NO_CAMERA, np.uint8)
    uv = np.full((H, W, 2), np.nan, np.float32)
    range_per_z = np.full((H, W), np.nan, np.float32)
    for k, (camera, T) in enumerate(zip(cameras, T_virtual_cam, strict=True)):
        uv_k, inside, cos_axis = _look(rays, camera, T, proxy)
        wins = inside & (cos_axis > best)
        source[wins], best[wins] = k, cos_axis[wins]
        uv[wins] = uv_k[wins]
        range_per_z[wins] = camera.range_per_z(uv_k[wins])
    S = _default_supersample(virtual, cameras) if supersample is None else supersample
    maps = _atlas_maps(virtual, cameras, T_virtual_cam, source, S, proxy)
    return RigTable(virtual, tuple(cameras), tuple(T_virtual_cam), source, uv, range_per_z, S, maps)


def _look(
    rays: NDArray[np.float64], camera: PinholeCamera, T_virtual_cam: NDArray[np.float64], proxy: Proxy | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Where ``camera`` sees what lies along ``rays``: uv, inside, cosine to the optical axis."""
    towards = rays
    if proxy is not None:
        towards = proxy(rays)[..., None] * rays - T_virtual_cam[:3, 3]
        towards = towards / np.linalg.norm(towards, axis=-1, keepdims=True)
    rays_cam = towards @ T_virtual_cam[:3, :3]  # R^T d for row vectors
    uv, inside = camera.project(rays_cam)
    return uv, inside, rays_cam[..., 2]


def _default_supersample(virtual: Camera, cameras: Sequence[PinholeCamera]) -> int:
    """Photograph pixels per virtual pixel at the optical axis, rounded, 1 to 4."""
    rays = virtual.rays()
    row = rays[rays.shape[0] // 2]
    virtual_px_per_rad = 1.0 / np.arccos(np.clip((row[0] * row[1]).sum(), -1, 1))
    return int(np.clip(np.round(max(c.fx for c in cameras) / virtual_px_per_rad), 1, 4))


def _atlas_maps(
    virtual: Camera,
    cameras: Sequence[PinholeCamera],
    T_virtual_cam: Sequence[NDArray[np.float64]],
    source: NDArray[np.uint8],
    S: int,
    proxy: Proxy | None,
) -> AtlasMaps:
    """cv2 maps of the n sub-samples of every pixel; all of them look through the pixel's own camera.

    Every second cell of a grid is half the work of all its cells and, on real photographs, still 45 dB and more
    from the average over a much finer grid.
    """
    corners = pixel_centres(virtual.width, virtual.height) - 0.5
    cells = [(i, j) for i in range(S) for j in range(S) if (i + j) % 2 == 0]
    maps = []
    for i, j in cells:
        rays = virtual.directions(corners + np.array([j + 0.5, i + 0.5]) / S)
        # Black rows close the atlas: looking there is faster than looking outside.
        x = np.zeros(source.shape, np.float32)
        y = np.full(source.shape, sum(c.height for c in cameras), np.float32)
        first_row = 0  # of the photograph in the atlas
        for k, (camera, T) in enumerate(zip(cameras, T_virtual_cam, strict=True)):
            mine = source == k
            u, v = _look(rays[mine], camera, T, proxy)[0].T
            # cv2 counts from the centre of the first pixel; sub-samples of border pixels stay in their photograph
            x[mine] = np.clip(u - 0.5, 0, camera.width - 1)
            y[mine] = np.clip(v - 0.5, 0, camera.height - 1) + first_row
            first_row += camera.height
        maps.append(cv2.convertMaps(x, y, cv2.CV_16SC2))
    return np.stack([xy for xy, _ in maps]), np.stack([fraction for _, fraction in maps])


class TableCache:
    """Least-recently-used tables keyed by rig.

    The same physical rig is recovered from rounded poses with a little noise in every frame. Calibrations that
    agree to 0.1 mm and 1e-5 rad are one rig and share the table of the first of them.
    """

    def __init__(
        self, virtual: Camera, supersample: int | None = None, proxy: Proxy | None = None, size: int = 16
    ) -> None:
        self.virtual = virtual
        self.proxy = proxy
        self.supersample = supersample
        self.size = size
        self._tables: OrderedDict[bytes, RigTable] = OrderedDict()

    def get(self, cameras: Sequence[PinholeCamera], T_virtual_cam: Sequence[NDArray[np.float64]]) -> RigTable:
        """The table of this rig, built on first use."""
        key = _rig_key(cameras, T_virtual_cam)
        if key in self._tables:
            self._tables.move_to_end(key)
            return self._tables[key]
        table = build_table(self.virtual, cameras, T_virtual_cam, self.supersample, self.proxy)
        self._tables[key] = table
        if len(self._tables) > self.size:
            self._tables.popitem(last=False)
        return table


def _rig_key(cameras: Sequence[PinholeCamera], T_virtual_cam: Sequence[NDArray[np.float64]]) -> bytes:
    poses = np.stack(T_virtual_cam)
    rounded = np.concatenate(
        [np.round(poses[:, :3, :3] * 1e5).ravel(), np.round(poses[:, :3, 3] * 1e4).ravel()]
    ).astype(np.int64)
    return repr(tuple(cameras)).encode() + rounded.tobytes()


def rig_poses(
    T_rig_cams: Sequence[NDArray[np.float64]], T_rig_virtual: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """``T_virtual_cam`` of every camera from poses in the rig frame."""
    T_virtual_rig = invert_rigid(T_rig_virtual)
    return [T_virtual_rig @ T for T in T_rig_cams]
