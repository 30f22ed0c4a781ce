"""Checks of LiDAR points against depth images, panoramas and each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from coop3d.datasets.doctor.calibration import rig_to_pano
from coop3d.datasets.doctor.report import Measured
from coop3d.geometry.transforms import invert_rigid, transform_points
from coop3d.types import LidarSweep, Panorama, RigFrame

NEAR_M = 30.0  # surfaces are compared this close to a vehicle, where sweeps sample them densely
OWN_BODY_M = 5.0  # nothing nearer to the LiDAR is compared between vehicles
ENOUGH = 200  # fewer comparisons than this say nothing
_QUERIES = 5000
_VOXEL_M = 0.3
_NEIGHBOURS, _REACH_M = 12, 4.0

Points = NDArray[np.float64]


def cloud_checks(frame: RigFrame, panorama: Panorama, sweeps: Sequence[LidarSweep]) -> Iterator[Measured]:
    """Everything that the sweeps of one instant say about one vehicle.

    Args:
        frame: with depth images where the source has them.
        panorama: stitched from ``frame``.
        sweeps: the own sweep first, then the other vehicles', in the rig of ``frame``; may be empty.
    """
    if not sweeps:
        return
    own, others = sweeps[0].points_rig, [s.points_rig for s in sweeps[1:]]
    from_files = all(view.z_m is not None for view in frame.views)
    if from_files:
        yield Measured("LiDAR points on the depth images", _cloud_on_depth(frame, own))
    if panorama.valid.any():  # where range comes from this LiDAR, the check is about stitching only
        yield Measured("LiDAR points on the panorama", _on_panorama(frame, panorama, own))
    if others:
        other = np.concatenate(others)
        yield Measured("LiDAR of one vehicle to another's, worst", _between_clouds(own, other))
        yield Measured(
            "other vehicles' LiDAR in the panorama",
            not_seen_through(rig_to_pano(frame, panorama, other), panorama),
        )
    if frame.sweeps and not from_files and panorama.valid.any():
        yield Measured(
            "panorama to the LiDAR points it comes from", _off_its_points(frame, panorama, [own, *others])
        )
    # Range that came from the LiDAR is compared with the LiDARs that it did not come from.
    independent = ([own] if from_files else []) + others
    if independent and panorama.valid.any():
        reference = rig_to_pano(frame, panorama, np.concatenate(independent))
        yield Measured(
            "panorama to fused LiDAR, median", _median_to_surface(near_points(panorama), reference)
        )


def near_points(panorama: Panorama) -> Points:
    """[N, 3] valid points between the vehicle's body and `NEAR_M`, pano frame, thinned."""
    points = panorama.points_pano()[panorama.valid].astype(np.float64)
    distance = np.linalg.norm(points, axis=1)
    return thin(points[(distance > OWN_BODY_M) & (distance < NEAR_M)])


def thin(points: Points, count: int = _QUERIES) -> Points:
    """About ``count`` of the points, evenly spread in their order."""
    return points[:: max(1, len(points) // count)]


def _cloud_on_depth(frame: RigFrame, cloud_rig: NDArray[np.float32]) -> float:
    """Share of LiDAR points whose z-depth the depth image confirms (the rest see past edges)."""
    confirmed = total = 0
    for view in frame.views:
        assert view.z_m is not None
        points = transform_points(invert_rigid(view.T_rig_cam), cloud_rig.astype(np.float64))
        uv, inside = view.camera.project(points)
        column, row = uv[inside].astype(int).T
        z_image, z_point = view.z_m[row, column], points[inside, 2]
        known = np.isfinite(z_image)
        error = np.abs(z_image[known] - z_point[known])
        slack = frame.depth_quantum_m / 2 + np.maximum(0.15, 0.03 * z_point[known])
        confirmed += int((error < slack).sum())
        total += int(known.sum())
    return confirmed / total if total >= ENOUGH else float("nan")


class _Seen(NamedTuple):
    """Where points fall in a panorama, and the surfaces around there."""

    range_m: Points  # [M] of the points, along the rays of the pixels they fall into
    nearest: Points  # [M] nearest and farthest range within one pixel: on a road seen at a grazing angle
    farthest: Points  # neighbouring rows are metres apart


def _look_up(points_pano: Points, panorama: Panorama) -> _Seen:
    """Compare points with the pixels whose own ray, from its own origin, meets them."""
    window = np.ones((3, 3), np.uint8)
    nearest = cv2.erode(np.nan_to_num(panorama.range_m, nan=np.inf), window, borderType=cv2.BORDER_REPLICATE)
    farthest = cv2.dilate(
        np.nan_to_num(panorama.range_m, nan=-np.inf), window, borderType=cv2.BORDER_REPLICATE
    )
    found = []
    for k, origin in enumerate(panorama.origins.astype(np.float64)):
        from_camera = points_pano - origin
        uv, inside = panorama.camera.project(from_camera)
        column, row = uv[inside].astype(int).T
        known = (panorama.source[row, column] == k) & np.isfinite(nearest[row, column])
        distance = np.linalg.norm(from_camera[inside][known], axis=1)
        row, column = row[known], column[known]
        found.append((distance, nearest[row, column], farthest[row, column]))
    return _Seen(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _on_panorama(frame: RigFrame, panorama: Panorama, cloud_rig: NDArray[np.float32]) -> float:
    """Share of the own LiDAR's points that lie on the surface which their pixel's range describes."""
    seen = _look_up(rig_to_pano(frame, panorama, cloud_rig), panorama)
    slack = np.maximum(0.15, 0.02 * seen.range_m)
    on = (seen.range_m > seen.nearest - slack) & (seen.range_m < seen.farthest + slack)
    return float(on.mean()) if len(on) >= ENOUGH else float("nan")


def not_seen_through(points_pano: Points, panorama: Panorama) -> float:
    """Share of another vehicle's points that a panorama confirms, among those it does not find hidden.

    A point behind the panorama's surface is hidden and says nothing. One in front of it contradicts: the panorama
    looks straight through it. The surroundings of the own body, which no own camera sees, are left out.
    """
    points = points_pano[np.linalg.norm(points_pano, axis=1) > OWN_BODY_M]
    seen = _look_up(thin(points, 20 * _QUERIES), panorama)
    slack = np.maximum(0.3, 0.05 * seen.range_m)
    contradicted = seen.range_m < seen.nearest - slack
    confirmed = ~contradicted & (seen.range_m < seen.farthest + slack)
    total = int(confirmed.sum() + contradicted.sum())
    return float(confirmed.sum() / total) if total >= ENOUGH else float("nan")


def confirmed_nearby(a: Panorama, b: Panorama) -> float:
    """Share of the points of ``a`` that ``b`` confirms, see `not_seen_through`, among those near both vehicles.

    From afar a pixel covers a post and what is behind it, whatever the poses.
    """
    T = invert_rigid(b.T_world_pano) @ a.T_world_pano
    points = np.asarray(transform_points(T, near_points(a)))
    return not_seen_through(points[np.linalg.norm(points, axis=1) < NEAR_M], b)


def _off_its_points(frame: RigFrame, panorama: Panorama, clouds_rig: list[NDArray[np.float32]]) -> float:
    """Distance to the nearest LiDAR point as a share of the distance from the vehicle, 90 % of the pixels."""
    points = near_points(panorama)
    if len(points) < ENOUGH:
        return float("nan")
    off = cKDTree(rig_to_pano(frame, panorama, np.concatenate(clouds_rig))).query(points)[0]
    return float(np.quantile(off / np.linalg.norm(points, axis=1), 0.9))


def _between_clouds(own: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Median point-to-plane distance between two clouds, separately for horizontal and vertical surfaces; the larger.

    Separately, because most points lie on the road, which does not show a sideways shift. Only surfaces that are flat
    and nearly parallel in both clouds are compared, so trees are not.
    """
    distance = np.linalg.norm(own, axis=1)
    query = thin(own[(distance < NEAR_M) & (distance > OWN_BODY_M)].astype(np.float64), 3 * _QUERIES)
    here, there = _planes(query, own), _planes(query, other)
    same = here.flat & there.flat & (np.abs((here.normal * there.normal).sum(axis=1)) > 0.9)
    off = there.distance(query)
    level = np.abs(there.normal[:, 1]) > 0.7
    medians = [float(np.median(off[k])) for k in (same & level, same & ~level) if k.sum() >= ENOUGH]
    return max(medians, default=float("nan"))


def _median_to_surface(query: Points, reference: NDArray[np.floating]) -> float:
    planes = _planes(query, reference)
    distance = planes.distance(query)[planes.flat]
    return float(np.median(distance)) if len(distance) >= ENOUGH else float("nan")


class _Planes(NamedTuple):
    """The plane through the reference points around each of M query points."""

    flat: NDArray[np.bool_]  # [M] False: no well sampled, flat neighbourhood; the rest is meaningless there
    centre: Points  # [M, 3]
    normal: Points  # [M, 3]

    def distance(self, query: Points) -> Points:
        """[M] metres between the query points and their planes."""
        return np.abs(((query - self.centre) * self.normal).sum(axis=1))


def _planes(query: Points, reference: NDArray[np.floating]) -> _Planes:
    """Planes, because the distance to the nearest point would measure the gap between two rings of a sweep."""
    even = _one_per_voxel(reference)  # a ring's thousands of points would hide the next ring
    if len(even) < _NEIGHBOURS or len(query) == 0:
        return _Planes(np.zeros(len(query), bool), np.zeros_like(query), np.zeros_like(query))
    distance, index = cKDTree(even).query(query, k=_NEIGHBOURS, distance_upper_bound=_REACH_M)
    enough = np.isfinite(distance).all(axis=1)
    around = even[np.where(enough[:, None], index, 0)]  # [M, k, 3]
    centre = around.mean(axis=1)
    spread = around - centre[:, None]
    size, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", spread, spread) / _NEIGHBOURS)
    # thin across (a plane), but not along one line only (a single ring)
    flat = (size[:, 0] < 0.05**2 + 1e-3 * size[:, 2]) & (size[:, 1] > 0.05 * size[:, 2])
    return _Planes(enough & flat, centre, axes[..., 0])


def _one_per_voxel(points: NDArray[np.floating]) -> Points:
    cells = np.floor(points / _VOXEL_M).astype(np.int64)
    cells -= cells.min(axis=0, initial=0)
    _, ny, nz = cells.max(axis=0, initial=0) + 1
    kept = np.unique((cells[:, 0] * ny + cells[:, 1]) * nz + cells[:, 2], return_index=True)[1]
    return points[kept].astype(np.float64)
