"""How long it takes to index a big split with its poses: cold (nothing kept) and warm (the index kept on disk).

Makes a split of the wanted size out of tiny files and hard links: the YAML files are of OPV2V's size and layout, a few
hundred different ones linked many times, so that disk space stays small. Cold therefore means that no index is kept;
the files themselves come from the operating system's memory, as after a copy.

Example:
    python benchmarks/bench_index.py --frames 30000 --output benchmarks/results/index.json
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from measure import report

from coop3d.datasets.opv2v import OPV2VIndex
from coop3d.datasets.synthetic import writer

logger = logging.getLogger("bench_index")
VEHICLES_LISTED = 140  # gives 45 kB, a busy OPV2V frame
DIFFERENT_YAMLS = 400


def frame_yaml(rng: np.random.Generator) -> str:
    """A frame's YAML with OPV2V's keys and size."""

    def pose() -> list[float]:
        return rng.uniform(-300, 300, 6).tolist()

    extrinsic, intrinsic = rng.normal(size=(4, 4)).tolist(), rng.normal(size=(3, 3)).tolist()
    camera = {"cords": pose(), "extrinsic": extrinsic, "intrinsic": intrinsic}
    vehicle = {"angle": [0.1, 170.2, 0.3], "center": [0.01, 0.02, 0.7], "extent": [2.3, 1.0, 0.8]}
    vehicles = {
        i: {**vehicle, "location": pose()[:3], "speed": float(rng.uniform(0, 60))}
        for i in range(VEHICLES_LISTED)
    }
    content = {
        **{f"camera{i}": camera for i in range(4)},
        "ego_speed": 20.5,
        "lidar_pose": pose(),
        "plan_trajectory": rng.uniform(-300, 300, (40, 3)).tolist(),
        "predicted_ego_pos": pose(),
        "true_ego_pos": pose(),
        "vehicles": vehicles,
    }
    return writer.yaml_text(content)


def make_split(root: Path, frames: int, frames_per_vehicle: int = 150, vehicles: int = 3) -> int:
    """``root/train`` with about ``frames`` vehicle-frames of four photographs, a cloud and a YAML; returns how many."""
    rng = np.random.default_rng(0)
    pool = root / "pool"
    pool.mkdir(parents=True)
    for i in range(DIFFERENT_YAMLS):
        (pool / f"{i}.yaml").write_text(frame_yaml(rng))
    made = 0
    for scenario in range(-(-frames // (frames_per_vehicle * vehicles))):
        for vehicle in range(vehicles):
            folder = root / "train" / f"2021_08_{scenario:03d}" / str(100 + vehicle)
            folder.mkdir(parents=True)
            tiny = pool / f"tiny{made}"  # a file system allows some 65 000 links to one file
            tiny.write_bytes(b"x")
            for frame in range(frames_per_vehicle):
                if made == frames:
                    return made
                os.link(pool / f"{made % DIFFERENT_YAMLS}.yaml", folder / f"{2 * frame:06d}.yaml")
                for ending in (".pcd", *(f"_camera{i}.png" for i in range(4))):
                    os.link(tiny, folder / f"{2 * frame:06d}{ending}")
                made += 1
    return made


def index_s(root: Path) -> tuple[float, int]:
    """Seconds to index with poses and group into instants, and how many poses."""
    start = time.perf_counter()
    index = OPV2VIndex(root, "train")
    instants = len(index.instants)
    assert instants > 0
    return time.perf_counter() - start, len(index.T_world_rig)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["COOP3D_CACHE_DIR"] = str(root / "cache")
        frames = make_split(root / "images", args.frames)
        sizes = [p.stat().st_size for p in (root / "images" / "pool").glob("*.yaml")]
        logger.info("%d frames, YAML of %.0f kB", frames, np.mean(sizes) / 1e3)
        time.sleep(2.5)  # an index of files younger than two seconds is not trusted
        cold, warm = [], []
        for _ in range(args.repeats):
            for kept in (root / "cache").glob("*"):
                kept.unlink()
            cold.append(index_s(root / "images")[0])
            seconds, poses = index_s(root / "images")
            warm.append(seconds)
            assert poses == frames
        (kept,) = (root / "cache").glob("*.npz")
        path = root / "images" / "pool" / "0.yaml"
        start = time.perf_counter()
        yaml.safe_load(path.read_text())
        result = {
            "frames": frames,
            "yaml_kB": round(float(np.mean(sizes)) / 1e3, 1),
            "cold_s": round(float(np.median(cold)), 2),
            "warm_s": round(float(np.median(warm)), 2),
            "kept_MB": round(kept.stat().st_size / 1e6, 1),
            "pure_python_yaml_of_one_file_s": round(time.perf_counter() - start, 3),
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        }
    report(result, args.output)


if __name__ == "__main__":
    main()
