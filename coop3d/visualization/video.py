"""Pictures over time: MP4 for players, GIF for pages and chats."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from coop3d.files import replacing
from coop3d.types import Panorama
from coop3d.visualization.arrays import RGB
from coop3d.visualization.colour import RANGE_SCALE
from coop3d.visualization.figures import caption, range_image, with_bar

FORMATS = (".mp4", ".gif")


def video_file(text: str) -> Path:
    """A path with the ending of a video, or argparse's error."""
    if Path(text).suffix.lower() not in FORMATS:
        raise ArgumentTypeError(f"found {text!r}, expected a name that ends in {' or '.join(FORMATS)}")
    return Path(text)


def frames_per_second(text: str) -> float:
    """A finite number above 0, or argparse's error."""
    try:
        fps = float(text)
    except ValueError:
        fps = math.nan
    if not 0 < fps < math.inf:
        raise ArgumentTypeError(f"found {text!r}, expected a number of frames per second above 0")
    return fps


def panorama_video_frame(panorama: Panorama) -> RGB:
    """Colour above range, with the frame's name."""
    p = panorama
    colour = caption(with_bar(p.rgb, RANGE_SCALE), f"{p.key}, {p.kind}")
    return np.concatenate([colour, with_bar(range_image(p.range_m), RANGE_SCALE)], axis=0)


def write_video(path: Path, frames: Iterable[RGB], fps: float = 10.0) -> Path:
    """Write pictures of equal size as MP4 (MPEG-4 part 2) or GIF, by the ending of ``path``, atomically.

    Args:
        path: .mp4 or .gif; replaced when complete.
        frames: [H, W, 3] RGB; drawn one at a time for MP4, kept as palette images for GIF.
        fps: frames per second; OPV2V records 10.

    Raises:
        ValueError: another ending, ``fps`` is no finite number above 0, no frame, or frames of different sizes.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: a video ends in one of {FORMATS}, found {path.suffix!r}")
    if not 0 < fps < math.inf:
        raise ValueError(f"{path}: fps is {fps}, expected a number above 0")
    write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
    with replacing(path) as temporary:
        write(temporary, frames, fps, path)
    return path


def _write_mp4(temporary: Path, frames: Iterable[RGB], fps: float, path: Path) -> None:
    temporary.touch()  # says why where it cannot be written; OpenCV would not
    writer, size = None, (0, 0)
    for frame in frames:
        frame = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]  # the codec wants even sides
        if writer is None:
            size = (frame.shape[1], frame.shape[0])
            writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
            if not writer.isOpened():
                raise ValueError(
                    f"{path}: this OpenCV cannot write MP4 at {fps:g} frames per second; choose a .gif"
                )
        if (frame.shape[1], frame.shape[0]) != size:
            raise ValueError(f"{path}: frames of {size} and {frame.shape[1::-1]} pixels cannot share a video")
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    if writer is None:
        raise ValueError(f"{path}: no frame to write")
    writer.release()


def _write_gif(temporary: Path, frames: Iterable[RGB], fps: float, path: Path) -> None:
    images = [Image.fromarray(frame).quantize(128) for frame in frames]
    if not images:
        raise ValueError(f"{path}: no frame to write")
    if len({image.size for image in images}) > 1:
        raise ValueError(f"{path}: frames of different sizes cannot share a video")
    images[0].save(
        temporary, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0
    )
