"""Time of stitching 1008x252 panoramas from four 800x600 photographs of a synthetic town, files excluded.

One CPU thread: colour, colour + dense range + masks, LiDAR projection with occlusion, central panoramas; each beside
its floor, the time to read the bytes that it must. The torch back end on a batch, on the CPU and, where there is one,
on a GPU.

python benchmarks/bench_stitching.py --output benchmarks/results/stitching.json
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from measure import median_ms, report, resident_bytes

from coop3d.datasets.opv2v import OPV2VIndex, load_rig_frame
from coop3d.datasets.synthetic import SyntheticConfig, make_synthetic_opv2v
from coop3d.geometry import EquirectangularCamera
from coop3d.stitching import PanoramaStitcher, TorchStitcher, build_table
from coop3d.stitching.lidar import sample_lidar
from coop3d.types import RigFrame


def load_frames() -> tuple[RigFrame, RigFrame]:
    """One vehicle of a synthetic town at 800x600, with dense depth and with the LiDARs of three vehicles."""
    config = SyntheticConfig(seed=3, scenarios={"train": 1}, frames=1, vehicles=(3, 3))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_synthetic_opv2v(root / "images", root / "depth", config, progress=False)
        index = OPV2VIndex(root / "images", "train", root / "depth")
        entry = index.frames[0]
        return load_rig_frame(entry, "dense"), load_rig_frame(entry, "fused", index.partners_of(entry))


def on_one_thread(dense: RigFrame, lidar: RigFrame, repeats: int) -> dict[str, float]:
    """Milliseconds of the numpy back end."""
    cv2.setNumThreads(1)
    stitcher = PanoramaStitcher(EquirectangularCamera(1008, 252))
    matched = PanoramaStitcher(stitcher.camera, exposure="matched")
    central = PanoramaStitcher(stitcher.camera, kind="central")
    colour = replace(dense, views=tuple(replace(v, z_m=None) for v in dense.views), depth_is_dense=False)
    table = stitcher.table(dense)
    own = lidar.sweeps[:1]
    points = len(own[0].points)
    own_ms = median_ms(lambda: sample_lidar(own, table, np.eye(4)), repeats)
    return {
        "floor: copy the photographs": median_ms(lambda: [v.image.copy() for v in dense.views], repeats),
        "colour": median_ms(lambda: stitcher(colour), repeats),
        "colour, matched exposure": median_ms(lambda: matched(colour), repeats),
        "floor: copy photographs and depth": median_ms(
            lambda: [(v.image.copy(), None if v.z_m is None else v.z_m.copy()) for v in dense.views], repeats
        ),
        "colour, dense range, masks": median_ms(lambda: stitcher(dense), repeats),
        f"LiDAR with occlusion, {points} points": own_ms,
        "LiDAR with occlusion, per 60000 points": round(own_ms * 60000 / points, 2),
        f"LiDAR with occlusion, {sum(len(s.points) for s in lidar.sweeps)} points of {len(lidar.sweeps)} sweeps":
            median_ms(lambda: sample_lidar(lidar.sweeps, table, np.eye(4)), repeats),
        "central, dense depth": median_ms(lambda: central(dense), max(repeats // 10, 3)),
        "table of a new rig": median_ms(
            lambda: build_table(table.virtual, table.cameras, table.T_virtual_cam), max(repeats // 10, 3)
        ),
    }  # fmt: skip


def in_torch(dense: RigFrame, device: str, batch: int, repeats: int) -> dict[str, float]:
    """Milliseconds per panorama of the torch back end, photographs and depth already on the device."""
    stitcher = PanoramaStitcher(EquirectangularCamera(1008, 252))
    stitch = TorchStitcher(stitcher.table(dense), device)
    images = (
        torch.from_numpy(np.stack([v.image for v in dense.views]))[None].repeat(batch, 1, 1, 1, 1).to(device)
    )
    z_m = torch.from_numpy(np.stack([v.z_m for v in dense.views]))[None].repeat(batch, 1, 1, 1).to(device)

    def task() -> None:
        stitch(images, z_m)
        if device == "cuda":
            torch.cuda.synchronize()

    return {f"torch on {device}, batch {batch}, per panorama": round(median_ms(task, repeats) / batch, 3)}


def memory(dense: RigFrame, lidar: RigFrame) -> dict[str, float]:
    """Megabytes that stitching adds to a process: with one rig, after 30 frames of it, after 24 different rigs."""
    stitcher = PanoramaStitcher(EquirectangularCamera(1008, 252))
    before, found = resident_bytes(), {}
    for step in range(54):
        T = np.eye(4)
        T[0, 3] = 0.01 * max(step - 29, 0)
        for frame in (dense, lidar):
            stitcher(replace(frame, views=tuple(replace(v, T_rig_cam=T @ v.T_rig_cam) for v in frame.views)))
        if step in (0, 29, 53):
            name = {0: "one rig", 29: "30 frames of one rig", 53: "24 more rigs (16 tables are kept)"}[step]
            found[name] = round((resident_bytes() - before) / 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dense, lidar = load_frames()
    megabytes = memory(dense, lidar)
    milliseconds = on_one_thread(dense, lidar, args.repeats) | in_torch(dense, "cpu", 1, 3)
    hardware = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, one thread"
    if torch.cuda.is_available():
        milliseconds |= in_torch(dense, "cuda", 32, args.repeats)
        hardware += f"; {torch.cuda.get_device_name()}"
    result = {
        "command": f"python benchmarks/bench_stitching.py --repeats {args.repeats}",
        "hardware": hardware,
        "milliseconds": milliseconds,
        "megabytes": megabytes,
    }
    report(result, args.output)


if __name__ == "__main__":
    main()
