"""The pose of a frame, read fast: parsing 30-60 kB of YAML for six numbers would take an index minutes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v.yaml_io import load_yaml, number_array

_NUMBER = rb"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?|0|[1-9][0-9]*)"  # no 010, which YAML reads as octal
_SIX = rb"\s*,\s*".join([rb"(" + _NUMBER + rb")"] * 6)
_ITEM = rb" *- (" + _NUMBER + rb") *\r?\n"
# The key, then six plain decimal numbers as a block or in brackets, then another key or the end. YAML reads exactly
# these spellings as the same numbers; everything else goes to the YAML parser.
_KEY = b"lidar_pose:"
_POSE = re.compile(
    _KEY + rb" *(?:\r?\n" + _ITEM * 6 + rb"|\[ *" + _SIX + rb" *\] *(?:\r?\n|\Z))(?=[^\s#-]|\Z)"
)


def read_lidar_pose(path: Path) -> NDArray[np.float64]:
    """[6] ``lidar_pose`` of a frame's YAML: x, y, z, roll, yaw, pitch in CARLA axes, metres and degrees.

    Raises:
        DataError: as `load_yaml` and `number_array`.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a YAML text file") from error
    found = _plain_pose(text)
    if found is not None:
        return found
    return number_array(path, load_yaml(path, keys={"lidar_pose"}), "lidar_pose", (6,))


def _plain_pose(text: bytes) -> NDArray[np.float64] | None:
    """The pose if it is spelled plainly, at the top level, once; None leaves it to the YAML parser."""
    start = text.find(_KEY)
    at_top = start == 0 or text[start - 1 : start] == b"\n"
    if (
        start < 0
        or not at_top
        or not text.isascii()
        or text.count(b"lidar_pose") != text.count(b"lidar_pose_") + 1
    ):
        return None
    found = _POSE.match(text, start)
    return None if found is None else np.array([float(g) for g in found.groups() if g is not None])


class LidarPoses(NamedTuple):
    """Poses of many frames, as the files say them."""

    values: NDArray[np.float64]  # [N, 6] CARLA axes, metres and degrees; zeros where it could not be read
    errors: dict[int, str]  # by position: why not


def read_lidar_poses(paths: Sequence[Path]) -> LidarPoses:
    """`read_lidar_pose` of every file; errors are collected."""
    values = np.zeros((len(paths), 6))
    errors: dict[int, str] = {}

    def read(i: int) -> None:
        try:
            values[i] = read_lidar_pose(paths[i])
        except DataError as error:
            errors[i] = str(error)

    with ThreadPoolExecutor(8) as pool:  # disks answer several requests at once
        done = pool.map(read, range(len(paths)), chunksize=64)
        for _ in tqdm(done, "reading poses", total=len(paths), unit="frame", disable=len(paths) < 2000):
            pass
    return LidarPoses(values, errors)
