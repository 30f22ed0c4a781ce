"""Writing a whole data set: what to do, by how many processes, and how to pick up after a kill."""

from __future__ import annotations

import datetime
import json
import logging
import multiprocessing
import os
import queue
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import SeedSequence, default_rng
from numpy.typing import NDArray
from tqdm import tqdm

from coop3d.files import write_bytes
from coop3d.geometry.carla import carla_pose_to_matrix, matrix_to_carla_pose

from . import sensors, writer
from .config import SPLITS, SyntheticConfig
from .scenario import Instant, Scenario, VehicleState, build_scenario, plan_scenario

logger = logging.getLogger(__name__)

MANIFEST = "synthetic.json"
N_CAMERAS = len(sensors.CAMERA_POSES)


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


def make_synthetic_opv2v(
    images_root: Path, depth_root: Path | None, config: SyntheticConfig, *, progress: bool = True
) -> SyntheticSummary:
    """Write a synthetic OPV2V, or finish one that was begun with the same settings.

    Args:
        images_root: becomes ``{split}/{scenario}/{agent}/{frame}.yaml|.pcd|_camera0..3.png``.
        depth_root: becomes ``{split}/{scenario}/{agent}/{frame}_camera{i}_depth.npy``; None writes no depth.
        config: settings.
        progress: show a bar.

    Raises:
        ValueError: if ``images_root`` holds something else, or a set made with other settings.
    """
    images_root = Path(images_root)
    depth_root = None if depth_root is None else Path(depth_root)
    start = time.perf_counter()
    _claim(images_root, depth_root, config)
    for root in [images_root] if depth_root is None else [images_root, depth_root]:
        for left_over in root.glob("*/*/*/.*"):  # of a run that was killed
            left_over.unlink(missing_ok=True)
    jobs = _jobs(images_root, depth_root, config)
    written = total = 0
    with tqdm(desc="synthetic OPV2V", unit=" vehicle-frames", disable=not progress, smoothing=0.05) as bar:
        for new, done in _run(jobs, config.workers):
            written, total = written + new, total + done
            bar.update(done)
    n_scenarios = sum(config.scenarios.values())
    seconds = time.perf_counter() - start
    logger.info("%s: %d vehicle-frames, %d written in %.1f s", images_root, total, written, seconds)
    return SyntheticSummary(images_root, depth_root, n_scenarios, total, written, seconds)


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


def _jobs(images_root: Path, depth_root: Path | None, config: SyntheticConfig) -> list[_Job]:
    """Split the work so that every process gets some; a town costs as much as several vehicle-frames to build."""
    scenarios = [(split, k) for split in SPLITS for k in range(config.scenarios.get(split, 0))]
    pieces = (
        min(max(1, config.frames // 8), -(-2 * config.workers // len(scenarios))) if config.workers > 1 else 1
    )
    frames = np.array_split(np.arange(config.frames), pieces)
    return [_Job(images_root, depth_root, config, split, index, tuple(int(f) for f in part))
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
    key = (c.seed, job.split, job.index, c.frames, c.vehicles, c.distances)
    if _built is None or _built[0] != key:
        if _built is not None:
            _built[1].release()
        _built = None  # before the next one: a town takes tens of megabytes
        scenario = build_scenario(
            c.seed, job.split, job.index, frames=c.frames, vehicles=c.vehicles, distances=c.distances
        )
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
            if is_complete(images, depth, stem, c.image_size):
                yield 0, 1
                continue
            for path in (images, depth):
                if path is not None:
                    path.mkdir(parents=True, exist_ok=True)
            instant = _scenario(job).instant(frame)
            write_vehicle_frame(instant, agent, c, (job.split, job.index), images, depth, stem)
            yield 1, 1


def _protocol(job: _Job, agents: list[int], name: str) -> dict[str, Any]:
    return {
        "description": "Procedurally generated, ray-traced scenario in the layout of OPV2V",
        "current_time": name,
        "world": {"sync_mode": True, "fixed_delta_seconds": 0.05, "seed": job.config.seed},
        "scenario": {"split": job.split, "index": job.index, "connected_vehicles": agents},
    }


def _outputs(images: Path, depth: Path | None, stem: str) -> list[Path]:
    """All files of a vehicle-frame, the YAML last: it is the mark of completion."""
    out = [images / f"{stem}_camera{i}.png" for i in range(N_CAMERAS)] + [images / f"{stem}.pcd"]
    if depth is not None:
        out += [depth / f"{stem}_camera{i}_depth.npy" for i in range(N_CAMERAS)]
    return [*out, images / f"{stem}.yaml"]


def is_complete(images: Path, depth: Path | None, stem: str, image_size: tuple[int, int]) -> bool:
    """Whether a vehicle-frame needs no more work."""
    return all(writer.is_whole(p, image_size) for p in reversed(_outputs(images, depth, stem)))


def write_vehicle_frame(
    instant: Instant, agent: int, config: SyntheticConfig, key: tuple[str, int], images: Path, depth: Path | None,
    stem: str,
) -> None:  # fmt: skip
    """Render and write one vehicle at one instant; ``key`` is (split, index of the scenario)."""
    seeds = (config.seed, SPLITS.index(key[0]), key[1], 5, agent)
    rng = default_rng(SeedSequence((*seeds, instant.frame)))
    gains = np.exp(config.exposure_spread * default_rng(SeedSequence(seeds)).standard_normal(N_CAMERAS))
    me = instant.vehicles[agent]
    lidar_pose = matrix_to_carla_pose(me.T_world_vehicle @ sensors.T_vehicle_lidar())
    T_world_lidar = carla_pose_to_matrix(lidar_pose)
    points, intensity, owner = sensors.scan_lidar(instant, T_world_lidar, config.lidar_points, agent, rng)
    writer.write_pcd(images / f"{stem}.pcd", points, intensity)
    record: dict[str, Any] = {}
    for i in range(N_CAMERAS):
        cords = matrix_to_carla_pose(me.T_world_vehicle @ sensors.T_vehicle_camera(i))
        T_world_camera = carla_pose_to_matrix(cords)
        bgr, z_m = sensors.render_camera(instant, T_world_camera, config.image_size, agent, gains[i])
        writer.write_png(images / f"{stem}_camera{i}.png", bgr)
        if depth is not None:
            writer.write_depth(depth / f"{stem}_camera{i}_depth.npy", z_m)
        record[f"camera{i}"] = {
            "cords": cords.tolist(),
            "extrinsic": (np.linalg.inv(T_world_camera) @ T_world_lidar).tolist(),
            "intrinsic": sensors.intrinsic(config.image_size).tolist(),
        }
    ego = matrix_to_carla_pose(me.T_world_vehicle)
    record["ego_speed"] = me.speed_kmh
    record["lidar_pose"] = lidar_pose.tolist()
    record["plan_trajectory"] = instant.scenario.plan(agent, instant.frame)
    guess = ego + rng.standard_normal(6) * [0.1, 0.1, 0.05, 0.0, 0.2, 0.0]  # what a GNSS receiver would say
    record["predicted_ego_pos"] = guess.tolist()
    record["true_ego_pos"] = ego.tolist()
    record["vehicles"] = {int(i): _annotation(instant.vehicles[int(i)]) for i in np.unique(owner[owner >= 0])}
    write_bytes(images / f"{stem}.yaml", writer.yaml_text(record).encode())


def _annotation(v: VehicleState) -> dict[str, list[float] | float]:
    pose: NDArray[np.float64] = matrix_to_carla_pose(v.T_world_vehicle)
    return {
        "angle": pose[3:].tolist(),
        "center": v.body.center.tolist(),
        "extent": v.body.extent.tolist(),
        "location": pose[:3].tolist(),
        "speed": v.speed_kmh,
    }
