"""PNG photographs, decoded about twice as fast as by OpenCV: most of the time of reading a frame is spent here."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

try:
    from isal import isal_zlib as fast_zlib
except ImportError:  # no wheel for this platform
    import zlib as fast_zlib  # type: ignore[no-redef]

_FastError: type[Exception] = getattr(fast_zlib, "error", zlib.error)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {2: 3, 6: 4}  # colour types RGB and RGBA


def decode_rgb(encoded: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """[h, w, 3] RGB of an image file's bytes; None when they are no readable image.

    Plain 8-bit RGB or RGBA PNGs (without interlacing) take the fast way; everything else, and whatever looks
    damaged, is left to OpenCV, so that both agree on what is readable.
    """
    fast = _fast_png(encoded.tobytes())
    if fast is not None:
        return fast
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB) if encoded.size else None


def _fast_png(data: bytes) -> NDArray[np.uint8] | None:
    try:
        parsed = _parse(data)
        if parsed is None:
            return None
        width, height, channels, idat = parsed
        size = height * (width * channels + 1)
        raw = np.frombuffer(fast_zlib.decompress(idat, 15, size), np.uint8)
    except (struct.error, OSError, ValueError, OverflowError, MemoryError, zlib.error, _FastError):
        return None
    if raw.size != size:
        return None
    flat = np.empty((height, width * channels), np.uint8)
    if not _unfilter(raw.reshape(height, -1), flat, channels):
        return None
    image = flat.reshape(height, width, channels)
    return image if channels == 3 else np.ascontiguousarray(image[..., :3])


def _parse(data: bytes) -> tuple[int, int, int, bytes] | None:
    """(width, height, channels, compressed pixels), or None where the fast way does not apply."""
    if data[:8] != _SIGNATURE:
        return None
    at, header, pixels = 8, None, []
    view = memoryview(data)
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        body = view[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if kind in (b"IHDR", b"IDAT") and crc != fast_zlib.crc32(body, fast_zlib.crc32(kind)):
            return None
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            pixels.append(body)
        elif kind == b"tRNS":
            return None
        elif kind == b"IEND":
            break
        at += 12 + length
    if header is None or header[2] != 8 or header[3] not in _CHANNELS or header[6] != 0:
        return None
    return header[0], header[1], _CHANNELS[header[3]], b"".join(pixels)


@njit(cache=True)
def _unfilter(raw, image, bpp):  # [h, 1 + w * bpp] with the filter of each row first -> [h, w * bpp]
    height, stride = image.shape
    zeros = np.zeros(stride, np.uint8)
    for y in range(height):
        kind, line, row = raw[y, 0], raw[y, 1:], image[y]
        above = image[y - 1] if y else zeros
        if kind == 0:
            row[:] = line
        elif kind == 1:  # left
            _left(line, row, bpp)
        elif kind == 2:  # up
            for i in range(stride):
                row[i] = line[i] + above[i]
        elif kind == 3:  # mean of both
            for i in range(bpp):
                row[i] = line[i] + (above[i] >> 1)
            for i in range(bpp, stride):
                row[i] = line[i] + ((np.int32(row[i - bpp]) + np.int32(above[i])) >> 1)
        elif kind == 4:
            _paeth(line, above, row, bpp)
        else:
            return False
    return True


@njit(cache=True)
def _left(line, row, bpp):
    """Add the pixel to the left, kept in registers: waiting for what was just stored takes longer than adding."""
    if bpp != 3:
        row[:bpp] = line[:bpp]
        for i in range(bpp, row.size):
            row[i] = line[i] + row[i - bpp]
        return
    a0 = a1 = a2 = np.uint8(0)
    for i in range(0, row.size - 2, 3):
        a0, a1, a2 = np.uint8(a0 + line[i]), np.uint8(a1 + line[i + 1]), np.uint8(a2 + line[i + 2])
        row[i], row[i + 1], row[i + 2] = a0, a1, a2


@njit(cache=True, inline="always")
def _closest(a, b, c):
    """Whichever of left (a), up (b), up-left (c) is closest to a + b - c, the first of equals.

    Selections instead of branches: which one it is cannot be predicted.
    """
    from_a, from_b = b - c, a - c
    from_c = abs(from_a + from_b)
    least, from_b = abs(from_a), abs(from_b)
    if from_b < least:
        least, a = from_b, b
    return c if from_c < least else a


@njit(cache=True)
def _paeth(line, above, row, bpp):
    """Paeth's filter with the last pixel in registers, three channels at once: each is a chain of dependent steps."""
    zero = np.int32(0)
    if bpp != 3:
        for channel in range(bpp):
            a = c = zero
            for i in range(channel, row.size, bpp):
                b = np.int32(above[i])
                a, c = (np.int32(line[i]) + _closest(a, b, c)) & 255, b
                row[i] = a
        return
    a0 = a1 = a2 = c0 = c1 = c2 = zero
    one, two = np.uint64(1), np.uint64(2)
    for i in range(
        np.uint64(0), np.uint64(row.size - 2), np.uint64(3)
    ):  # unsigned: no test for negative indices
        b0, b1, b2 = np.int32(above[i]), np.int32(above[i + one]), np.int32(above[i + two])
        a0 = (np.int32(line[i]) + _closest(a0, b0, c0)) & 255
        a1 = (np.int32(line[i + one]) + _closest(a1, b1, c1)) & 255
        a2 = (np.int32(line[i + two]) + _closest(a2, b2, c2)) & 255
        row[i], row[i + one], row[i + two] = a0, a1, a2
        c0, c1, c2 = b0, b1, b2
