"""Does a dataset on disk say what coop3d believes it says? Layout, calibration, depth, clouds, panoramas.

Each check measures something that one of the classic mistakes (rotation order, handedness, z taken as range,
cropped photographs, rays from the wrong origin) would move far outside its expected band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from coop3d.datasets.coop import CooperativeDataset
from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import FrameEntry, load_yaml, number_array
from coop3d.datasets.sources import StitchedPanoramas, ViewSource
from coop3d.geometry.carla import carla_to_opencv
from coop3d.geometry.transforms import invert_rigid, rotation_angle, transform_points
from coop3d.types import Panorama, RigFrame

NEAR_M = 25.0  # clouds are compared this close to the vehicle, where sampling is dense
OWN_BODY_M = 5.0  # nothing nearer to the LiDAR is compared between vehicles


@dataclass(frozen=True)
class Check:
    """One measured value beside the band it must lie in. ``ok`` None means it could not be measured."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    hint: str
    ok: bool | None

    @property
    def verdict(self) -> str:
        """ok, FAIL or n/a."""
        return "n/a" if self.ok is None else ("ok" if self.ok else "FAIL")


@dataclass(frozen=True)
class Report:
    """All checks of one split."""

    split: str
    counts: dict[str, int]
    checks: tuple[Check, ...]
    unreadable: tuple[str, ...]  # messages of sampled frames that could not be read

    @property
    def ok(self) -> bool:
        """No check failed and every sampled frame was readable."""
        return not self.unreadable and all(c.ok is not False for c in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        checks = [{**asdict(c), "value": c.value if np.isfinite(c.value) else None} for c in self.checks]
        return {"split": self.split, "ok": self.ok, "counts": self.counts, "checks": checks,
                "unreadable": list(self.unreadable)}  # fmt: skip

    def to_table(self) -> str:
        """Fixed-width text."""
        lines = [f"{self.split}: " + ", ".join(f"{v} {k}" for k, v in self.counts.items())]
        for c in self.checks:
            band = f"[{c.low:g}, {c.high:g}] {c.unit}".rstrip()
            value = f"{c.value:.4g}" if np.isfinite(c.value) else "-"
            lines.append(f"  {c.verdict:<5}{c.name:<46}{value:>9}   expected {band}")
            if c.ok is False:
                lines.append(f"       {c.hint}")
        lines += [f"  FAIL unreadable: {message}" for message in self.unreadable]
        return "\n".join(lines)


def examine(dataset: CooperativeDataset, num_samples: int = 5) -> Report:
    """Run every check on frames spread evenly over a dataset's split.

    Args:
        dataset: cooperative dataset over stitched panoramas.
        num_samples: instants to look into.
    """
    source = dataset.source
    if not isinstance(source, StitchedPanoramas):
        raise ValueError(f"the checks are about stitched panoramas, found a {type(source).__name__} source")
    measured: dict[str, list[float]] = {name: [] for name in _BANDS}
    unreadable = []
    by_key = {entry.key: entry for entry in source.index.frames}
    for index in np.unique(np.linspace(0, len(dataset) - 1, num_samples).round().astype(int)):
        entries = [by_key[key] for key in dataset.keys_of(0, int(index))]
        try:
            for name, value in _measure(source, entries[:3]):
                measured[name].append(value)
        except DataError as error:
            unreadable.append(str(error))
    distances = _distances(dataset, source)
    counts = {
        "frames": len(source.index),
        "skipped": len(source.index.skipped),
        "instants": len(source.index.instants),
        "samples": len(dataset),
        "scenarios": len({e.key.scenario for e in source.index.frames}),
    }
    checks = [_judge(name, values) for name, values in measured.items()]
    checks.append(_judge("distance of partners, median", [float(np.median(distances))] if distances else []))
    return Report(source.index.split, counts, tuple(checks), tuple(unreadable))


# name -> (low, high, unit, what a value outside means)
_BANDS: dict[str, tuple[float, float, str, str]] = {
    "extrinsic against cords, translation": (
        0.0, 0.05, "m", "cameraN.extrinsic disagrees with cameraN.cords and lidar_pose: poses are read in a wrong "
        "order or sign, or the file mixes frames"),
    "extrinsic against cords, rotation": (0.0, 0.3, "deg", "as above: check roll, yaw, pitch order and signs"),
    "panorama covered": (
        0.75, 1.0, "", "the rig should cover about 0.86 of a +-45 degree panorama; about 0.33 means photographs "
        "were cropped before stitching"),
    "covered surface with range": (
        0.005, 1.0, "", "almost no pixel has range: the depth root is empty, in another unit, or misaligned"),
    "LiDAR points on the depth image": (
        0.75, 1.0, "", "LiDAR and depth disagree: depth is range instead of z, cameras are swapped, or poses are "
        "converted wrongly"),
    "LiDAR to panorama points, median": (
        0.0, 0.25, "m", "panorama points miss the LiDAR: rays start at a wrong origin, or z was taken as range"),
    "points of one vehicle in the other's view": (
        0.95, 1.0, "", "one vehicle's points float in space that another one sees through: poses between vehicles "
        "are wrong"),
}  # fmt: skip
_DISTANCE_BAND = (1.0, 150.0, "m", "partners are implausibly near or far: poses are in another unit or frame")


def _judge(name: str, values: Sequence[float]) -> Check:
    low, high, unit, hint = _BANDS.get(name, _DISTANCE_BAND)
    finite = [v for v in values if np.isfinite(v)]
    if not finite:
        return Check(name, float("nan"), low, high, unit, hint, None)
    value = float(np.median(finite))
    return Check(name, value, low, high, unit, hint, low <= value <= high)


def _distances(dataset: CooperativeDataset, source: ViewSource) -> list[float]:
    poses = source.index.T_world_rig
    found = []
    for index in range(len(dataset)):
        reference, *others = dataset.keys_of(0, index)
        found += [float(np.linalg.norm(poses[k][:3, 3] - poses[reference][:3, 3])) for k in others]
    return found


def _measure(source: StitchedPanoramas, entries: Sequence[FrameEntry]) -> Iterable[tuple[str, float]]:
    seen = []
    for entry in entries:
        frame = source.load_frame(entry, with_sweep=entry.pcd_path is not None)
        yield from _calibration(entry, frame)
        panorama = source.stitcher(frame)
        yield "panorama covered", float(panorama.covered.mean())
        surface = panorama.covered & (panorama.non_ambiguous | ~panorama.mask_known)
        if frame.views[0].z_m is None or not surface.any():
            continue
        yield "covered surface with range", float(panorama.valid.sum() / surface.sum())
        if frame.sweeps:
            yield "LiDAR points on the depth image", _cloud_on_depth(frame)
            yield "LiDAR to panorama points, median", _cloud_to_panorama(frame, panorama)
        seen.append((frame, _points(panorama, panorama.T_world_pano)))
    for (frame_a, points_a), (frame_b, points_b) in pairwise(seen):
        yield "points of one vehicle in the other's view", _not_seen_through(points_a, frame_b)
        yield "points of one vehicle in the other's view", _not_seen_through(points_b, frame_a)


def _calibration(entry: FrameEntry, frame: RigFrame) -> Iterable[tuple[str, float]]:
    meta = load_yaml(entry.yaml_path, keys=entry.camera_names)
    differences = []  # identity when both agree
    for view in frame.views:
        if "extrinsic" in meta[view.name]:
            written = carla_to_opencv(number_array(entry.yaml_path, meta, f"{view.name}.extrinsic", (4, 4)))
            differences.append(written @ view.T_rig_cam)
    if differences:  # the worst camera: one wrong among four must show
        D = np.stack(differences)
        yield "extrinsic against cords, translation", float(np.linalg.norm(D[:, :3, 3], axis=1).max())
        yield "extrinsic against cords, rotation", float(np.degrees(rotation_angle(D[:, :3, :3])).max())


def _cloud_on_depth(frame: RigFrame) -> float:
    """Share of LiDAR points whose z-depth the depth image confirms (the rest see past edges)."""
    confirmed = total = 0
    cloud_rig = frame.sweeps[0].points_rig.astype(np.float64)
    for view in frame.views:
        assert view.z_m is not None
        points = transform_points(invert_rigid(view.T_rig_cam), cloud_rig)
        uv, inside = view.camera.project(points)
        column, row = uv[inside].astype(int).T
        z_image, z_point = view.z_m[row, column], points[inside, 2]
        known = np.isfinite(z_image)
        error = np.abs(z_image[known] - z_point[known])
        confirmed += int((error < np.maximum(0.15, 0.03 * z_point[known])).sum())
        total += int(known.sum())
    return confirmed / total if total else float("nan")


def _points(panorama: Panorama, T_dst_pano: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(transform_points(T_dst_pano, panorama.points_pano()[panorama.valid].astype(np.float64)))


def _cloud_to_panorama(frame: RigFrame, panorama: Panorama) -> float:
    """Median distance of near LiDAR points to the panorama's nearest point."""
    cloud_rig = frame.sweeps[0].points_rig.astype(np.float64)
    T_pano_rig = invert_rigid(panorama.T_world_pano) @ frame.T_world_rig
    cloud = transform_points(T_pano_rig, cloud_rig)
    near = np.linalg.norm(cloud, axis=1) < NEAR_M
    return _median_nearest(cloud[near], _points(panorama, np.eye(4)))


def _not_seen_through(points_world: NDArray[np.float64], frame: RigFrame) -> float:
    """Share of another vehicle's points that this one confirms, among those it does not find hidden.

    A point behind this vehicle's depth is hidden and says nothing. One in front of it contradicts: this vehicle
    looks straight through it. The own body, which no own camera sees, is left out.
    """
    confirmed = contradicted = 0
    points = transform_points(
        invert_rigid(frame.T_world_rig), points_world[:: max(1, len(points_world) // 20000)]
    )
    points = points[np.linalg.norm(points, axis=1) > OWN_BODY_M]
    for view in frame.views:
        assert view.z_m is not None
        in_camera = transform_points(invert_rigid(view.T_rig_cam), points)
        uv, inside = view.camera.project(in_camera)
        column, row = uv[inside].astype(int).T
        z, slack = in_camera[inside, 2], np.maximum(0.3, 0.05 * in_camera[inside, 2])
        # Nearest and farthest surface around the pixel: on a road seen at a grazing angle one row is metres.
        window = np.ones((3, 3), np.uint8)
        nearest = cv2.erode(np.nan_to_num(view.z_m, nan=np.inf), window)[row, column]
        farthest = cv2.dilate(np.nan_to_num(view.z_m, nan=-np.inf), window)[row, column]
        confirmed += int(((z >= nearest - slack) & (z <= farthest + slack)).sum())
        contradicted += int(((z < nearest - slack) & np.isfinite(nearest)).sum())
    total = confirmed + contradicted
    return confirmed / total if total >= 300 else float("nan")


def _median_nearest(query: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    if len(query) == 0 or len(reference) == 0:
        return float("nan")
    return float(np.median(cKDTree(reference).query(query[:: max(1, len(query) // 5000)])[0]))


def examine_all(
    make_dataset: Callable[[str], CooperativeDataset], names: Sequence[str], num_samples: int
) -> list[Report]:
    """Reports of several dataset nodes; a split that cannot be indexed is reported, not raised."""
    reports = []
    for name in names:
        try:
            reports.append(examine(make_dataset(name), num_samples))
        except DataError as error:
            reports.append(Report(name, {}, (), (str(error),)))
    return reports
