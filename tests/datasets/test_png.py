"""The fast PNG decoder against OpenCV's, bit by bit, and on what it does not know."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from coop3d.datasets import png

RNG = np.random.default_rng(0)
SMOOTH = cv2.GaussianBlur(RNG.integers(0, 256, (37, 53, 3), np.uint8), (9, 9), 0)


def file_of(image, *options):
    ok, data = cv2.imencode(".png", image, list(options))
    assert ok
    return data


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(rows, width, height, channels=3, interlace=0):
    """A PNG from rows that begin with their filter."""
    header = struct.pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[channels], 0, 0, interlace)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return np.frombuffer(b"\x89PNG\r\n\x1a\n" + data, np.uint8)


@pytest.mark.parametrize(
    "image", [SMOOTH, SMOOTH[:, :1], SMOOTH[:1], RNG.integers(0, 256, (20, 30, 3), np.uint8)]
)
@pytest.mark.parametrize("strategy", range(4))
def test_what_opencv_wrote(image, strategy):
    data = file_of(image, cv2.IMWRITE_PNG_STRATEGY, strategy, cv2.IMWRITE_PNG_COMPRESSION, 6)
    fast = png._fast_png(data.tobytes())
    assert fast is not None
    np.testing.assert_array_equal(fast, image[..., ::-1])
    np.testing.assert_array_equal(png.decode_rgb(data), cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("channels", [3, 4])
def test_every_filter(kind, channels):
    """Random bytes behind every filter are an image too; OpenCV says which."""
    rows = RNG.integers(0, 256, (9, 1 + 7 * channels), np.uint8)
    rows[:, 0] = kind
    data = png_of(rows.tobytes(), 7, 9, channels)
    assert png._fast_png(data.tobytes()) is not None
    np.testing.assert_array_equal(png.decode_rgb(data), cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def test_other_images_are_left_to_opencv():
    grey, deep = file_of(SMOOTH[..., 0]), file_of(SMOOTH.astype(np.uint16) * 200)
    jpeg = cv2.imencode(".jpg", SMOOTH)[1]
    for data in (grey, deep, jpeg):
        assert png._fast_png(data.tobytes()) is None
        np.testing.assert_array_equal(png.decode_rgb(data), cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def test_damage_is_not_an_image_of_its_own():
    whole = file_of(RNG.integers(0, 256, (40, 40, 3), np.uint8))
    flipped = whole.copy()
    flipped[len(whole) // 2] ^= 255
    bad_filter = np.zeros((4, 1 + 4 * 3), np.uint8)
    bad_filter[2, 0] = 7
    too_few = np.zeros((3, 1 + 4 * 3), np.uint8)
    for data in (
        whole[: len(whole) // 2], whole[:20], whole[:3], flipped,
        png_of(bad_filter.tobytes(), 4, 4), png_of(too_few.tobytes(), 4, 4),
    ):  # fmt: skip
        assert png._fast_png(data.tobytes()) is None
    assert png.decode_rgb(np.zeros(0, np.uint8)) is None
    assert png.decode_rgb(np.frombuffer(b"junk", np.uint8)) is None
