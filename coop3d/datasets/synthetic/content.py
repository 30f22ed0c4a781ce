"""What a synthetic data set holds, as hashes: the layout, equal on every machine, and the decoded content.

The layout is who stands where and is photographed how: split, scenario, vehicle, frame, size of the photographs, poses
of LiDAR and cameras. It is arithmetic in float64 and is rounded far above its last bits, so every machine writes the
same. Pixels are not: the compiled tracer contracts multiplications and additions where the processor can, so a value at
the edge of a triangle, or half-way between two levels, may fall on the other side. Their hash is exact on one
kind of processor; across machines, means over a split are compared instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import SeedSequence, default_rng
from numpy.typing import NDArray

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v.yaml_io import load_yaml, number_array
from coop3d.geometry.carla import matrix_to_carla_pose

from .config import SPLITS, SyntheticConfig
from .domain import DOMAINS
from .generate import scenario_name
from .scenario import drive, plan_scenario
from .town import town_plan
from .traffic import drive_poses
from .vehicle_frame import N_CAMERAS

_POSE_KEYS = ("lidar_pose", *(f"camera{i}" for i in range(N_CAMERAS)))


class Frame(NamedTuple):
    """One vehicle at one instant, by the names of its files."""

    split: str
    scenario: str
    agent: int
    stem: str

    def __str__(self) -> str:
        return "/".join(map(str, self))


class Totals(NamedTuple):
    """Means over the photographs of a split, which rounding at edges hardly moves."""

    level: float  # of all pixels and colours, 0 to 255
    surface: float  # share of pixels with a depth
    inverse_depth: float  # 1/m over those pixels


def sha256(lines: Iterable[str]) -> str:
    """Hexadecimal SHA-256 of lines, each ended by a line feed."""
    out = hashlib.sha256()
    for line in lines:
        out.update(f"{line}\n".encode())
    return out.hexdigest()


def planned_layout(config: SyntheticConfig, split: str, index: int) -> dict[Frame, str]:
    """Layout of one scenario as the settings decide it, computed without building or tracing the town."""
    plan = plan_scenario(config.seed, split, index, config.vehicles, config.distances)
    domain = DOMAINS[config.domain]
    town = town_plan(default_rng(SeedSequence((config.seed, SPLITS.index(split), index, 2))), domain)
    drivers, agents = drive(config.seed, split, index, plan, town, config.frames)
    name = scenario_name(split, index)
    mounts = [domain.rig.T_vehicle_lidar(), *map(domain.rig.T_vehicle_camera, range(N_CAMERAS))]
    out = {}
    for driver in (d for d in drivers if d.id in agents):
        for k, T in enumerate(drive_poses(town.layout, driver)[: config.frames]):
            frame = Frame(split, name, driver.id, f"{plan.tick(k):06d}")
            out[frame] = _line(frame, config.image_size, [matrix_to_carla_pose(T @ m) for m in mounts])
    return dict(sorted(out.items()))


def written_layout(images_root: Path, splits: Sequence[str] = SPLITS) -> dict[Frame, str]:
    """Layout of the files on disk, from their YAML.

    Raises:
        DataError: a YAML file cannot be read.
    """
    paths = [p for split in splits for p in sorted((images_root / split).glob("*/*/[0-9]*.yaml"))]
    with ThreadPoolExecutor() as pool:
        return dict(sorted(pool.map(_written, paths)))


def yaml_digest(images_root: Path, scenario: str) -> str:
    """SHA-256 over the bytes of all YAML files of a scenario (``split/scenario``) and their names."""
    paths = sorted((images_root / scenario).rglob("*.yaml"))
    return sha256(
        f"{p.relative_to(images_root).as_posix()} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in paths
    )


def _written(path: Path) -> tuple[Frame, str]:
    split, scenario, agent = path.parts[-4:-1]
    frame = Frame(split, scenario, int(agent), path.stem)
    data = load_yaml(path, _POSE_KEYS)
    lidar = number_array(path, data, "lidar_pose", (6,))
    cameras = [number_array(path, data, f"{key}.cords", (6,)) for key in _POSE_KEYS[1:]]
    K = number_array(path, data, "camera0.intrinsic", (3, 3))
    size = (round(2 * K[0, 2]), round(2 * K[1, 2]))
    return frame, _line(frame, size, [lidar, *cameras])


def _line(frame: Frame, size: Sequence[int], poses: Sequence[NDArray[np.float64]]) -> str:
    """Metres and degrees to four decimals; adding zero turns -0.0 into 0.0."""
    numbers = " ".join(f"{np.round(x, 4) + 0.0:.4f}" for pose in poses for x in pose)
    return f"{frame} {size[0]}x{size[1]} {numbers}"


class FrameContent(NamedTuple):
    """What the files of a vehicle-frame hold, decoded."""

    digest: str  # SHA-256 over pixels, depth, cloud and YAML
    totals: Totals


def frame_contents(
    images_root: Path, depth_root: Path, frames: Sequence[Frame], workers: int = 2
) -> Iterator[tuple[Frame, FrameContent]]:
    """Decode vehicle-frames, in their order. Photographs are hashed as pixels: how they are compressed is no matter.

    Raises:
        DataError: a file is missing or cannot be decoded.
    """
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda f: _content(images_root, depth_root, f), frames)
        yield from zip(frames, results, strict=True)


def _content(images_root: Path, depth_root: Path, frame: Frame) -> FrameContent:
    out = hashlib.sha256()
    here = Path(frame.split, frame.scenario, str(frame.agent))
    sums = np.zeros(3)
    for i in range(N_CAMERAS):
        path = images_root / here / f"{frame.stem}_camera{i}.png"
        picture = cv2.imdecode(np.frombuffer(_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
        depth_path = depth_root / here / f"{frame.stem}_camera{i}_depth.npy"
        if picture is None:
            raise DataError(f"{path}: cannot be decoded as PNG. Remove it and make the data again.")
        _bytes(depth_path)
        z = np.load(depth_path, allow_pickle=False)
        for array in (picture, z):
            out.update(f"{array.dtype.str} {array.shape}".encode())
            out.update(np.ascontiguousarray(array).data)
        near = z[z > 0]
        sums += [
            picture.mean(),
            near.size / z.size,
            (1.0 / near).mean(dtype=np.float64) if near.size else 0.0,
        ]
    for suffix in ("pcd", "yaml"):
        out.update(_bytes(images_root / here / f"{frame.stem}.{suffix}"))
    return FrameContent(out.hexdigest(), Totals(*(sums / N_CAMERAS)))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: is missing. Make the data again: what is there is kept.") from error
