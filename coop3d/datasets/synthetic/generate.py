"""Writing a whole data set: what to do, by how many processes, and how to pick up after a kill."""

from __future__ import annotations

import datetime
import json
import logging
import multiprocessing
import os
import queue
import time
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from coop3d.datasets.opv2v.layout import LAYOUT_MARK
from coop3d.files import write_bytes, write_text, writing

from . import writer
from .config import SPLITS, SyntheticConfig
from .scenario import Scenario, build_scenario, plan_scenario
from .vehicle_frame import vehicle_files, write_vehicle_frame, write_vehicle_yaml

logger = logging.getLogger(__name__)

MANIFEST = "synthetic.json"
_MARK_TEXT = (
    "This split holds the YAML of a synthetic data set; photographs, depth and clouds are missing, or some are.\n"
    "Readers refuse it. The command that made it, without --layout-only, makes the rest and removes this file.\n"
)


@dataclass(frozen=True)
class SyntheticSummary:
    """What :func:`make_synthetic_opv2v` did."""

    images_root: Path
    depth_root: Path | None
    scenarios: int
    vehicle_frames: int  # in the data set
    written: int  # by this run
    seconds: float


@dataclass(frozen=True)
class _Job:
    """Some instants of one scenario, done by one process."""

    images_root: Path
    depth_root: Path | None
    config: SyntheticConfig
    split: str
    index: int
    frames: tuple[int, ...]
    layout_only: bool


def make_synthetic_opv2v(
    images_root: Path,
    depth_root: Path | None,
    config: SyntheticConfig,
    *,
    only: Collection[tuple[str, int]] | None = None,
    layout_only: bool = False,
    progress: bool = True,
) -> SyntheticSummary:
    """Write a synthetic OPV2V, or finish one that was begun with the same settings.

    Args:
        images_root: becomes ``{split}/{scenario}/{agent}/{frame}.yaml|.pcd|_camera0..3.png``.
        depth_root: becomes ``{split}/{scenario}/{agent}/{frame}_camera{i}_depth.npy``; None writes no depth.
        config: settings.
        only: (split, number) of the scenarios to make; None makes all.
        layout_only: write the YAML alone, the same bytes as otherwise. Each split is marked as a layout, which readers
            refuse; without this option a later run goes on, and takes the mark from the splits it was asked to
            make in full.
        progress: show a bar.

    Raises:
        ValueError: if ``images_root`` holds something else, a set made with other settings, or (``layout_only``)
            photographs; or if ``only`` names no scenario of the settings.
        OSError: if the disk is full, for example. What is finished is kept.
    """
    images_root = Path(images_root)
    depth_root = None if depth_root is None else Path(depth_root)
    start = time.perf_counter()
    scenarios = _chosen(config, only)
    _claim(images_root, depth_root, config)
    for root in [images_root] if depth_root is None else [images_root, depth_root]:
        for left_over in root.glob("*/*/*/.*"):  # of a run that was killed
            left_over.unlink(missing_ok=True)
    if layout_only:
        for split in dict.fromkeys(split for split, _ in scenarios):
            _mark(images_root / split)
    jobs = _jobs(images_root, depth_root, config, scenarios, layout_only)
    written = total = 0
    what = "synthetic layout" if layout_only else "synthetic OPV2V"
    bar = tqdm(desc=what, unit=" vehicle-frames", disable=not progress, smoothing=0.05)
    with writing(images_root, "folder, or make room: the same command goes on from there"), bar:
        for new, done in _run(jobs, config.workers):
            written, total = written + new, total + done
            bar.update(done)
    if not layout_only:
        for split, n in config.scenarios.items():
            if sum(s == split for s, _ in scenarios) == n:
                (images_root / split / LAYOUT_MARK).unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    logger.info("%s: %d vehicle-frames, %d written in %.1f s", images_root, total, written, seconds)
    return SyntheticSummary(images_root, depth_root, len(scenarios), total, written, seconds)


def _chosen(config: SyntheticConfig, only: Collection[tuple[str, int]] | None) -> list[tuple[str, int]]:
    every = [(split, k) for split in SPLITS for k in range(config.scenarios.get(split, 0))]
    if only is None:
        return every
    unknown = sorted(set(only) - set(every))
    if unknown or not only:
        raise ValueError(f"only names {unknown[:3]}, expected some (split, number) within {config.scenarios}")
    return [key for key in every if key in only]


def _mark(folder: Path) -> None:
    """Say that a split is a layout, before its first YAML is written."""
    if (folder / LAYOUT_MARK).exists():
        return
    if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise ValueError(
            f"{folder} holds photographs, or a run that makes them began there: it cannot become a layout. "
            "Finish it without layout_only, or choose another output folder."
        )
    write_text(folder / LAYOUT_MARK, _MARK_TEXT)


def scenario_name(split: str, index: int) -> str:
    """Timestamp-like folder name, unique over all splits."""
    day = {"train": 14, "validate": 21, "test": 24, "test_culver_city": 28}[split]
    moment = datetime.datetime(2021, 8, day, 9, 10, 24) + datetime.timedelta(seconds=2711 * index)
    return moment.strftime("%Y_%m_%d_%H_%M_%S")


def _claim(images_root: Path, depth_root: Path | None, config: SyntheticConfig) -> None:
    """Record the settings in the root, or compare them with the recorded ones."""
    settings = {**config.settings(), "depth": depth_root is not None}
    manifest = images_root / MANIFEST
    if manifest.exists():
        try:
            found = json.loads(manifest.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{manifest}: not readable as JSON ({error}). Delete the folder and start over."
            ) from error
        keys = sorted(set(settings) | set(found))
        differing = [f"{k}: found {found.get(k)!r}, now {settings.get(k)!r}" for k in keys
                     if found.get(k) != settings.get(k)]  # fmt: skip
        if differing:
            raise ValueError(
                f"{images_root} was made with other settings ({'; '.join(differing)}). "
                "Use the same settings to finish it, or another output folder."
            )
        return
    if images_root.exists() and any(images_root.iterdir()):
        raise ValueError(
            f"{images_root} is not empty and has no {MANIFEST}, so this generator did not make it. "
            "Choose a new or empty output folder."
        )
    images_root.mkdir(parents=True, exist_ok=True)
    write_bytes(manifest, (json.dumps(settings, indent=2) + "\n").encode())


def _jobs(
    images_root: Path,
    depth_root: Path | None,
    config: SyntheticConfig,
    scenarios: list[tuple[str, int]],
    layout_only: bool = False,
) -> list[_Job]:
    """Split the work so that every process gets some; a town costs as much as several vehicle-frames to build."""
    pieces = (
        min(max(1, config.frames // 8), -(-2 * config.workers // len(scenarios))) if config.workers > 1 else 1
    )
    frames = np.array_split(np.arange(config.frames), pieces)
    return [_Job(images_root, depth_root, config, split, index, tuple(int(f) for f in part), layout_only)
            for split, index in scenarios for part in frames]  # fmt: skip


def _run(jobs: list[_Job], workers: int):
    """Yield (written, done) vehicle-frames as they finish."""
    if workers == 1:
        for job in jobs:
            yield from _do(job)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe once any library has started threads
    reports = context.Queue()
    with ProcessPoolExecutor(
        workers, context, initializer=_set_reports, initargs=(reports, os.getpid())
    ) as pool:
        futures = [pool.submit(_do_reporting, job) for job in jobs]
        try:
            expected = seen = 0
            pending = list(futures)
            while pending or seen < expected:
                for future in [f for f in pending if f.done()]:
                    expected += future.result()  # raises what the process raised, also when it was killed
                    pending.remove(future)
                try:
                    report = reports.get(timeout=0.2)
                except queue.Empty:
                    continue
                seen += 1
                yield report
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_reports: Any = None
_parent = 0


def _set_reports(reports, parent: int) -> None:
    global _reports, _parent
    _reports, _parent = reports, parent


def _do_reporting(job: _Job) -> int:
    n = 0
    for report in _do(job):
        if os.getppid() != _parent:
            raise SystemExit("the run that started this process was killed")
        _reports.put(report)
        n += 1
    return n


_built: tuple[tuple, Scenario] | None = None


def _scenario(job: _Job) -> Scenario:
    """The scenario of a job; the last one is kept, as several jobs of one process may share it."""
    global _built
    c = job.config
    key = (c.seed, job.split, job.index, c.frames, c.vehicles, c.distances, c.domain)
    if _built is None or _built[0] != key:
        if _built is not None:
            _built[1].release()
        _built = None  # before the next one: a town takes tens of megabytes
        scenario = build_scenario(
            c.seed, job.split, job.index, frames=c.frames, vehicles=c.vehicles, distances=c.distances, domain=c.domain,
        )  # fmt: skip
        _built = (key, scenario)
    return _built[1]


def _do(job: _Job):
    """Write a job's missing vehicle-frames; yields (written, done) per vehicle-frame.

    The town is built only if something is missing: looking through a finished set takes seconds.
    """
    c = job.config
    plan = plan_scenario(c.seed, job.split, job.index, c.vehicles, c.distances)
    name = scenario_name(job.split, job.index)
    folder = job.images_root / job.split / name
    protocol = folder / "data_protocol.yaml"
    if not protocol.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(protocol, writer.yaml_text(_protocol(job, plan.agents, name)).encode())
    for frame in job.frames:
        for agent in plan.agents:
            stem = f"{plan.tick(frame):06d}"
            images = folder / str(agent)
            depth = None if job.depth_root is None else job.depth_root / job.split / name / str(agent)
            if _is_done(job, images, depth, stem):
                yield 0, 1
                continue
            instant = _scenario(job).instant(frame)
            if job.layout_only:
                write_vehicle_yaml(instant, agent, c, (job.split, job.index), images, stem)
            else:
                write_vehicle_frame(instant, agent, c, (job.split, job.index), images, depth, stem)
            yield 1, 1


def _protocol(job: _Job, agents: list[int], name: str) -> dict[str, Any]:
    return {
        "description": "Procedurally generated, ray-traced scenario in the layout of OPV2V",
        "current_time": name,
        "world": {"sync_mode": True, "fixed_delta_seconds": 0.05, "seed": job.config.seed},
        "scenario": {"split": job.split, "index": job.index, "connected_vehicles": agents},
    }


def _is_done(job: _Job, images: Path, depth: Path | None, stem: str) -> bool:
    """Whether a vehicle-frame needs no more work."""
    files = vehicle_files(images, depth, stem)
    wanted = files[-1:] if job.layout_only else files
    return all(writer.is_whole(p, job.config.image_size) for p in reversed(wanted))
