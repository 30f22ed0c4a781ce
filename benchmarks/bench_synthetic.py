"""How fast the synthetic OPV2V is made: stages of one vehicle-frame, then whole runs.

Example:
    python benchmarks/bench_synthetic.py --sizes 800x600,320x240 --workers 2
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from coop3d.datasets.synthetic import SyntheticConfig, build_scenario, make_synthetic_opv2v, writer
from coop3d.datasets.synthetic import sensors as rig

logger = logging.getLogger("bench_synthetic")


def _best_ms(work: Callable[[], object], repeats: int = 5) -> float:
    """Fastest of several runs in CPU milliseconds; the first, which may compile, does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def stages(size: tuple[int, int]) -> None:
    """CPU time of each stage of one vehicle-frame."""
    start = time.process_time()
    build_scenario(1, "train", 0)
    compiled = time.process_time() - start
    start = time.process_time()
    scenario = build_scenario(0, "train", 0)
    logger.info("town: %.2f s CPU (%.2f s when it also compiles)", time.process_time() - start, compiled)
    both = [0, 1]
    logger.info("instant: %.1f ms", _best_ms(lambda: [scenario.instant(k) for k in both]) / 2)
    instant = scenario.instant(0)
    agent = scenario.agents[0]
    vehicle = instant.vehicles[agent].T_world_vehicle
    cameras = [vehicle @ rig.T_vehicle_camera(i) for i in range(4)]
    T_lidar = vehicle @ rig.T_vehicle_lidar()
    trace = _best_ms(lambda: [rig.render_depth(instant, T, size, agent) for T in cameras])
    render = _best_ms(lambda: [rig.render_camera(instant, T, size, agent) for T in cameras])
    rays = 4 * size[0] * size[1]
    logger.info("%dx%d trace: %.1f ms for 4 cameras, %.1f M rays/s", *size, trace, rays / trace / 1e3)
    logger.info("%dx%d trace and shade: %.1f ms, %.1f M rays/s", *size, render, rays / render / 1e3)
    directions = rig.lidar_directions(1000).reshape(-1, 3) @ T_lidar[:3, :3].T
    single = _best_ms(lambda: scenario.trace(T_lidar[:3, 3], directions, exclude=agent))
    logger.info("single-ray tracer: %.2f M rays/s", len(directions) / single / 1e3)
    scan = _best_ms(lambda: rig.scan_lidar(instant, T_lidar, 1000, agent, np.random.default_rng(0)))
    logger.info("LiDAR sweep: %.1f ms", scan)
    points, intensity, _ = rig.scan_lidar(instant, T_lidar, 1000, agent, np.random.default_rng(0))
    pictures = [rig.render_camera(instant, T, size, agent) for T in cameras]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        png = _best_ms(lambda: [writer.write_png(out / f"{i}.png", p[0]) for i, p in enumerate(pictures)])
        npy = _best_ms(lambda: [writer.write_depth(out / f"{i}.npy", p[1]) for i, p in enumerate(pictures)])
        pcd = _best_ms(lambda: writer.write_pcd(out / "cloud.pcd", points, intensity))
    logger.info("writing: 4 PNG %.1f ms, 4 depth %.1f ms, cloud %.1f ms", png, npy, pcd)


def whole_run(size: tuple[int, int], workers: int, frames: int) -> None:
    """Wall time of making a small data set, towns and process start included."""
    config = SyntheticConfig(
        image_size=size, scenarios={"train": 4}, frames=frames, vehicles=(3, 3), workers=workers
    )
    with tempfile.TemporaryDirectory() as folder:
        summary = make_synthetic_opv2v(
            Path(folder) / "images", Path(folder) / "depth", config, progress=False
        )
    rate = summary.written / summary.seconds
    logger.info("%dx%d, %d workers: %d vehicle-frames in %.1f s = %.1f/s", *size, workers, summary.written,
                summary.seconds, rate)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="800x600,320x240", help="comma-separated WIDTHxHEIGHT")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--frames", type=int, default=10, help="instants per scenario of the whole run")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for text in args.sizes.split(","):
        width, height = (int(v) for v in text.split("x"))
        stages((width, height))
        whole_run((width, height), args.workers, args.frames)


if __name__ == "__main__":
    main()
