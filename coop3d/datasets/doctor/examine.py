"""Run every check on frames spread over a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations

import numpy as np

from coop3d.datasets.coop import CooperativeDataset
from coop3d.datasets.doctor.bands import BANDS
from coop3d.datasets.doctor.calibration import coverage, extrinsics
from coop3d.datasets.doctor.clouds import cloud_checks, confirmed_nearby
from coop3d.datasets.doctor.masks import mask_checks
from coop3d.datasets.doctor.report import Measured, Report, judge
from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import FrameEntry, load_sweeps
from coop3d.datasets.sources import StitchedPanoramas
from coop3d.types import LidarSweep, RigFrame

VEHICLES_PER_INSTANT = 3  # looked at; the clouds of all others are used too


def examine(dataset: CooperativeDataset, num_samples: int = 5) -> Report:
    """Run every check on frames spread evenly over a dataset's split.

    Args:
        dataset: cooperative dataset over stitched panoramas.
        num_samples: instants to look into.

    Raises:
        DataError: the dataset does not stitch its panoramas itself.
    """
    source = dataset.source
    if not isinstance(source, StitchedPanoramas):
        raise DataError(
            f"{source.location}: the doctor looks into the files themselves, found a {type(source).__name__} source; "
            "use a panorama dataset with dataset.panoramas=raw"
        )
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}, expected at least 1")
    measured = list(_of_the_split(dataset, source))
    unreadable: list[str] = []
    by_key = {entry.key: entry for entry in source.index.frames}
    for index in np.unique(np.linspace(0, len(dataset) - 1, num_samples).round().astype(int)):
        entries = [by_key[key] for key in dataset.keys_of(0, int(index))]
        try:
            measured += _of_an_instant(source, entries[:VEHICLES_PER_INSTANT])
        except DataError as error:
            unreadable.append(str(error))
        measured.append(Measured("sampled instants that can be read", float(not unreadable)))
    by_name: dict[str, list[Measured]] = {name: [] for name in BANDS}
    for value in measured:
        by_name[value.name].append(value)
    checks = tuple(judge(name, BANDS[name], found) for name, found in by_name.items() if found)
    return Report(source.index.split, _counts(dataset, source), checks, tuple(unreadable))


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


def _counts(dataset: CooperativeDataset, source: StitchedPanoramas) -> dict[str, int]:
    index = source.index
    return {
        "frames": len(index),
        "skipped": len(index.skipped),
        "scenarios": len({e.key.scenario for e in index.frames}),
        "instants": len(index.instants),
        "samples": len(dataset),
        "instants without partners": dataset.unusable_instants,
        "road-side frames": sum(e.key.is_roadside_unit for e in index.frames),
        "frames with a cloud": sum(e.pcd_path is not None for e in index.frames),
        "frames with depth files": sum(e.depth_paths is not None for e in index.frames),
    }


def _of_the_split(dataset: CooperativeDataset, source: StitchedPanoramas) -> Iterator[Measured]:
    """Layout, views per sample, distances between vehicles: from the index alone."""
    index = source.index
    yield Measured("frames that are complete", len(index) / (len(index) + len(index.skipped)))
    if index.depth_root is not None:
        with_depth = sum(e.depth_paths is not None for e in index.frames)
        yield Measured("frames with depth files", with_depth / len(index))
    low, high = (n * source.views_per_vehicle for n in dataset.sampling.limits)
    views = [dataset.num_views_of(0, i) for i in range(len(dataset))]
    yield Measured(
        "samples with as many views as asked for", float(np.mean([low <= n <= high for n in views]))
    )
    distances, units = [], 0
    for i in range(len(dataset)):
        reference, *others = dataset.keys_of(0, i)
        units += reference.agent.startswith("-")
        centre = index.T_world_rig[reference][:3, 3]
        distances += [float(np.linalg.norm(index.T_world_rig[k][:3, 3] - centre)) for k in others]
    yield Measured("references that are road-side units", units / len(dataset))
    if distances:
        yield Measured("distance of partners, median", float(np.median(distances)))
        yield Measured("distance of partners, farthest", max(distances))


def _of_an_instant(source: StitchedPanoramas, entries: Sequence[FrameEntry]) -> list[Measured]:
    found: list[Measured] = []
    panoramas, dense = [], True
    for entry in entries:
        frame = source.load_frame(entry)
        panorama = source.stitch(frame)
        found += extrinsics(entry, frame)
        found += coverage(frame, panorama)
        found += mask_checks(frame, panorama)
        found += cloud_checks(frame, panorama, _sweeps(source, entry, frame))
        panoramas.append(panorama)
        dense &= frame.depth_is_dense
    for a, b in permutations(panoramas, 2):
        if a.valid.any() and b.valid.any():
            # LiDARs of several vehicles see past more edges than the test of occlusion can close.
            name = (
                "points of one panorama in another" if dense else "points of one sparse panorama in another"
            )
            found.append(Measured(name, confirmed_nearby(a, b)))
    return found


def _sweeps(source: StitchedPanoramas, entry: FrameEntry, frame: RigFrame) -> tuple[LidarSweep, ...]:
    """The clouds of all vehicles of the instant in the rig of ``entry``, its own first; () without an own one."""
    if entry.pcd_path is None:
        return ()
    partners = [p for p in source.index.partners_of(entry) if p.pcd_path is not None]
    return load_sweeps(entry, partners, frame.T_world_rig)
