"""Files in OPV2V's formats, each appearing whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from coop3d.files import write_bytes

_PNG_END = b"IEND\xaeB`\x82"
_NPY_HEADER = 128  # bytes numpy writes before the data of a plain 2-D array
# Open3D stores colour as the float whose bits are 0x00RRGGBB; OPV2V keeps intensity in R.
_PACKED_RED = [f"{v:.10g}".encode() for v in (np.arange(256, dtype=np.uint32) << 16).view(np.float32)]
_RED_WIDTH = max(len(text) for text in _PACKED_RED)
_RED_TABLE = np.array([list(text.ljust(_RED_WIDTH)) for text in _PACKED_RED], dtype=np.uint8)
_RED_LENGTH = np.array([len(text) for text in _PACKED_RED], dtype=np.int64)


def write_png(path: Path, bgr: NDArray[np.uint8]) -> None:
    """[H, W, 3] uint8 in OpenCV's channel order, fast compression."""
    ok, data = cv2.imencode(
        ".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    )
    if not ok:
        raise RuntimeError(f"{path}: OpenCV could not encode the picture")
    write_bytes(path, data.data)


def write_depth(path: Path, z_m: NDArray[np.float32]) -> None:
    """[H, W] float32 planar depth as ``.npy``."""
    header = (
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({z_m.shape[0]}, {z_m.shape[1]}), }}"
    )  # fmt: skip
    text = header.ljust(_NPY_HEADER - 10 - 1) + "\n"
    prefix = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    write_bytes(path, prefix + np.ascontiguousarray(z_m, "<f4").tobytes())


def write_pcd(path: Path, points: NDArray[np.float64], intensity: NDArray[np.uint8]) -> None:
    """ASCII cloud as Open3D writes it: ``x y z rgb``, metres, LiDAR frame, intensity in the red channel."""
    n = len(points)
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\n"
        f"COUNT 1 1 1 1\nWIDTH {n}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA ascii\n"
    )
    buffer = np.empty(n * (3 * 14 + _RED_WIDTH + 2) + 1, np.uint8)
    used = _format_points(
        np.ascontiguousarray(points, np.float64), intensity, _RED_TABLE, _RED_LENGTH, buffer
    )
    write_bytes(path, header.encode() + buffer[:used].tobytes())


@njit(cache=True)
def _format_points(points, red, table, length, out):
    """``x y z rgb`` per line with four decimals; returns the number of bytes used."""
    at = 0
    digits = np.empty(20, np.uint8)
    for i in range(points.shape[0]):
        for a in range(3):
            value = np.int64(np.rint(points[i, a] * 10000.0))
            if value < 0:
                out[at] = 45
                at += 1
                value = -value
            n = 0
            while value > 0 or n < 5:
                digits[n] = 48 + value % 10
                value //= 10
                n += 1
            for k in range(n - 1, -1, -1):
                out[at] = digits[k]
                at += 1
                if k == 4:
                    out[at] = 46
                    at += 1
            out[at] = 32
            at += 1
        for k in range(length[red[i]]):
            out[at] = table[red[i], k]
            at += 1
        out[at] = 10
        at += 1
    return at


def yaml_text(value: Any, indent: str = "") -> str:
    """Block-style YAML of nested dicts, lists, numbers and strings, laid out like the released files.

    A hand-written emitter because PyYAML's needs longer for one file than tracing its four photographs.
    """
    lines: list[str] = []
    _emit(value, indent, lines)
    return "\n".join(lines) + "\n"


def _emit(value: Any, indent: str, lines: list[str]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict) and item:
                lines.append(f"{indent}{key}:")
                _emit(item, indent + "  ", lines)
            elif isinstance(item, list) and item:
                lines.append(f"{indent}{key}:")
                _emit_list(item, indent, lines)
            else:
                lines.append(f"{indent}{key}: {_scalar(item)}")
    else:
        _emit_list(value, indent, lines)


def _emit_list(items: Iterable[Any], indent: str, lines: list[str]) -> None:
    for item in items:
        if isinstance(item, list) and item:
            inner: list[str] = []
            _emit_list(item, indent + "  ", inner)
            inner[0] = f"{indent}- {inner[0][len(indent) + 2 :]}"
            lines.extend(inner)
        else:
            lines.append(f"{indent}- {_scalar(item)}")


def _scalar(value: Any) -> str:
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        return "[]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        # YAML 1.1 reads 1e-05 as a string: it wants a dot in the mantissa.
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    return str(value)


def is_whole(path: Path, image_size: tuple[int, int]) -> bool:
    """Whether a finished-looking output is really complete, judged by its size and last bytes."""
    try:
        size = path.stat().st_size
        if path.suffix == ".npy":
            return size == _NPY_HEADER + 4 * image_size[0] * image_size[1]
        with open(path, "rb") as file:
            file.seek(max(0, size - 8))
            tail = file.read()
    except FileNotFoundError:
        return False
    return tail == _PNG_END if path.suffix == ".png" else tail.endswith(b"\n")
