"""Two vehicles on curved roads, on disk as OPV2V lies there: enough frames for trajectories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.analytic import render_rig, street, vehicle_pose
from support.opv2v_files import write_frame

from coop3d.types import SampleKey

SCENARIO, AGENTS = "2021_08_20_21_10_00", ("105", "205")


def write_drive(root: Path, frames: int = 7, split: str = "test") -> tuple[Path, Path]:
    """(images_root, depth_root); the reference turns left, the other vehicle right, 18 m ahead."""
    images, depth = root / "images", root / "depth"
    scene = street((2.0, -3.0))
    for f in range(frames):
        bend = np.radians(8.0 * f)
        for agent, start, side in zip(AGENTS, (0.0, 18.0), (-1.0, 1.0), strict=True):
            x, z = side * 6 * (1 - np.cos(bend)), start + 6 * np.sin(bend)
            T = vehicle_pose(x, z, side * np.degrees(bend), (2.0, -3.0))
            key = SampleKey(SCENARIO, agent, f"{68 + 2 * f:06d}")
            write_frame(images, split, render_rig(scene, T, (40, 30), key), depth)
    (images / split / SCENARIO / "data_protocol.yaml").write_text("world: {sync_mode: true}\n")
    return images, depth
