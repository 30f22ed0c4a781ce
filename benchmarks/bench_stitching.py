"""Time of stitching one panorama on one CPU thread, files excluded: colour, colour + dense range + masks.

python benchmarks/bench_stitching.py --output benchmarks/results/stitching.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import cv2
import numpy as np

from coop3d.evaluation.report import write_atomically
from coop3d.geometry import EquirectangularCamera, PinholeCamera
from coop3d.geometry.transforms import make_rigid, yaw_rotation
from coop3d.stitching import PanoramaStitcher
from coop3d.types import CameraView, RigFrame, SampleKey


def nominal_rig(width: int, height: int, with_depth: bool) -> RigFrame:
    """OPV2V's rig with noise photographs, on flat ground between walls with dense clutter of boxes."""
    camera = PinholeCamera.from_hfov(width, height, 100.0)
    rng = np.random.default_rng(0)
    views = []
    for k, (yaw, x, y, z) in enumerate(
        [(0, 0, 0.9, 3.0), (100, 0.3, 0.1, 0.5), (-100, -0.3, 0.1, 0.5), (180, 0, 0.4, -1.5)]
    ):
        down = camera.rays()[..., 1] / camera.rays()[..., 2]
        depth = np.where(down > 0.02, (1.9 - y) / np.maximum(down, 0.02), np.nan).astype(np.float32)
        pose = make_rigid(yaw_rotation(np.radians(yaw))[:3, :3], np.array([x, y, z], float))
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        views.append(CameraView(name=f"camera{k}", camera=camera, T_rig_cam=pose, image=image,
                                z_m=depth if with_depth else None))  # fmt: skip
    return RigFrame(
        key=SampleKey("bench", "1", "0"), views=tuple(views), T_world_rig=np.eye(4), depth_is_dense=True
    )


def median_ms(task, repeats: int) -> float:
    """Median of ``repeats`` runs after three warm-ups."""
    times = []
    for i in range(repeats + 3):
        start = time.perf_counter()
        task()
        if i >= 3:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    stitcher = PanoramaStitcher(EquirectangularCamera(1008, 252))
    colour, full = nominal_rig(800, 600, False), nominal_rig(800, 600, True)
    start = time.perf_counter()
    stitcher(full)
    result = {
        "panorama": "1008x252 from 4 x 800x600, one thread",
        "table_and_compilation_ms": round(1e3 * (time.perf_counter() - start), 1),
        "colour_ms": round(median_ms(lambda: stitcher(colour), args.repeats), 2),
        "colour_range_masks_ms": round(median_ms(lambda: stitcher(full), args.repeats), 2),
        "copy_of_the_photographs_ms": round(  # the floor: reading every photograph byte once
            median_ms(lambda: [v.image.copy() for v in full.views], args.repeats), 2
        ),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
    }
    print(json.dumps(result, indent=2))
    if args.output is not None:
        write_atomically(args.output, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
