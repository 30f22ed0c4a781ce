"""PCD point clouds in all three encodings: ascii, binary, binary_compressed (LZF)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from coop3d.datasets.errors import DataError

_NUMPY_KIND = {"F": "f", "I": "i", "U": "u"}
_POWERS_OF_TEN = np.array([10.0**k for k in range(23)])  # exact doubles


class PointCloud(NamedTuple):
    """Points as stored in the file, in the file's own axes."""

    xyz: NDArray[np.float32]  # [N, 3] metres
    intensity: NDArray[np.float32]  # [N] in [0, 1]; NaN when the file has neither intensity nor colour


class _Header(NamedTuple):
    names: list[str]
    dtypes: list[np.dtype]
    points: int
    encoding: str
    data_start: int


def read_pcd(path: Path) -> PointCloud:
    """Read a `.pcd` file.

    OPV2V stores intensity in the red channel of a packed ``rgb`` field; both spellings are understood.
    Points with a non-finite coordinate are dropped, as PCD allows "no return" to be NaN.

    Raises:
        DataError: missing, truncated, or not a PCD file with x, y, z.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a PCD point cloud") from error
    header = _parse_header(path, raw)
    if header.encoding == "ascii":
        columns = _read_ascii(path, raw, header)
    else:
        columns = _read_binary(path, raw, header)
    xyz = np.stack([columns[axis].astype(np.float32) for axis in "xyz"], axis=-1)
    finite = np.isfinite(xyz).all(axis=1)
    return PointCloud(xyz[finite], _intensity(columns, len(xyz))[finite])


def _parse_header(path: Path, raw: bytes) -> _Header:
    fields: dict[str, list[str]] = {}
    position = 0
    while "DATA" not in fields:
        end = raw.find(b"\n", position)
        if end < 0 or position > 4096:
            raise DataError(f"{path}: no DATA line found in the header; expected a PCD file (truncated?)")
        words = raw[position:end].decode("ascii", "replace").split()
        position = end + 1
        if words and not words[0].startswith("#"):
            fields[words[0].upper()] = words[1:]
    try:
        names = _distinct(fields["FIELDS"])
        counts = fields.get("COUNT", ["1"] * len(names))
        dtypes = [
            np.dtype(f"<{_NUMPY_KIND[kind]}{size}")
            for kind, size in zip(fields["TYPE"], fields["SIZE"], strict=True)
        ]
        rows = fields.get("HEIGHT", ["1"])
        points = int(fields["POINTS"][0]) if "POINTS" in fields else int(fields["WIDTH"][0]) * int(rows[0])
        encoding = fields["DATA"][0]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise DataError(f"{path}: malformed PCD header ({error!r}); found {sorted(fields)}") from error
    if len(names) != len(dtypes) or set(counts) != {"1"} or not {"x", "y", "z"} <= set(names):
        raise DataError(f"{path}: PCD fields are {names} with COUNT {counts}; expected single x, y, z, ...")
    if encoding not in ("ascii", "binary", "binary_compressed"):
        raise DataError(f"{path}: PCD DATA is {encoding!r}, expected ascii, binary or binary_compressed")
    return _Header(names, dtypes, points, encoding, position)


def _distinct(names: list[str]) -> list[str]:
    """Padding is written as any number of fields called ``_``; columns need names of their own."""
    return [f"{name}{i}" if name in names[:i] else name for i, name in enumerate(names)]


def _truncated(path: Path, found: str, header: _Header) -> DataError:
    return DataError(
        f"{path}: truncated or corrupt PCD: found {found}, expected {header.points} points of "
        f"{len(header.names)} fields. Copy the file again, or move the frame's .yaml away to leave it out."
    )


def _read_ascii(path: Path, raw: bytes, header: _Header) -> dict[str, np.ndarray]:
    body = raw[header.data_start :]
    values = np.empty(header.points * len(header.names))
    if _parse_decimals(np.frombuffer(body, np.uint8), values, _POWERS_OF_TEN) != values.size:
        try:
            values = np.array(body.split(), dtype=np.float64)
        except ValueError as error:
            raise _truncated(path, f"text that is not a number ({error})", header) from error
    if values.size != header.points * len(header.names):
        raise _truncated(path, f"{values.size} numbers", header)
    table = values.reshape(header.points, len(header.names))
    return {name: table[:, i] for i, name in enumerate(header.names)}


@njit(cache=True)
def _parse_decimals(text: np.ndarray, out: np.ndarray, powers_of_ten: np.ndarray) -> int:
    """Plain decimals apart by white space; how many there were, -1 for anything that only a slower parser can tell.

    Up to 15 digits and an exponent of at most 22 give exactly the nearest double, as both parts are doubles
    themselves (Clinger, "How to read floating point numbers accurately", 1990). Smaller ones, such as a colour's bits
    printed as a float, are off by a few units of a double's last digit: nothing in the float32 they become.
    """
    i = count = 0
    while True:
        while i < text.size and text[i] <= 32:
            i += 1
        if i == text.size:
            return count
        if count == out.size:
            return -1
        negative = text[i] == 45
        if negative:
            i += 1
        mantissa, exponent, digits, decimals = np.int64(0), np.int64(0), 0, -1
        while i < text.size and text[i] > 32 and text[i] not in (69, 101):
            if 48 <= text[i] <= 57:
                mantissa = 10 * mantissa + np.int64(text[i]) - 48
                digits += 1
                decimals += decimals >= 0
            elif text[i] == 46 and decimals < 0:
                decimals = 0
            else:
                return -1
            i += 1
        if not 0 < digits <= 15:
            return -1
        if i < text.size and text[i] > 32:  # e or E
            i += 1
            below_one = i < text.size and text[i] == 45
            i += i < text.size and text[i] in (43, 45)
            first = i
            while i < text.size and 48 <= text[i] <= 57 and i - first < 4:
                exponent = 10 * exponent + np.int64(text[i]) - 48
                i += 1
            if i == first or (i < text.size and text[i] > 32):
                return -1
            if below_one:
                exponent = -exponent
        exponent -= max(decimals, 0)
        value = float(mantissa)
        while exponent < -22:
            value /= powers_of_ten[22]
            exponent += 22
        if exponent > 22:
            return -1
        value = value * powers_of_ten[exponent] if exponent >= 0 else value / powers_of_ten[-exponent]
        out[count] = -value if negative else value
        count += 1


def _read_binary(path: Path, raw: bytes, header: _Header) -> dict[str, np.ndarray]:
    body = raw[header.data_start :]
    row = np.dtype(list(zip(header.names, header.dtypes, strict=True)))
    if header.encoding == "binary":
        if len(body) < header.points * row.itemsize:
            raise _truncated(path, f"{len(body)} bytes", header)
        table = np.frombuffer(body, dtype=row, count=header.points)
        return {name: table[name] for name in header.names}

    # binary_compressed: two uint32 sizes, then LZF data holding one field after another.
    if len(body) < 8:
        raise _truncated(path, f"{len(body)} bytes", header)
    packed_size, size = np.frombuffer(body, "<u4", count=2)
    packed = np.frombuffer(body, np.uint8, offset=8)[:packed_size]
    if len(packed) < packed_size or size != header.points * row.itemsize:
        raise _truncated(path, f"{len(packed)} of {packed_size} compressed bytes", header)
    unpacked = np.empty(size, np.uint8)
    if _lzf_decompress(packed, unpacked) != size:
        raise _truncated(path, "a broken LZF stream", header)
    columns, offset = {}, 0
    for name, dtype in zip(header.names, header.dtypes, strict=True):
        columns[name] = np.frombuffer(unpacked, dtype, count=header.points, offset=offset)
        offset += header.points * dtype.itemsize
    return columns


@njit(cache=True)
def _lzf_decompress(packed: np.ndarray, out: np.ndarray) -> int:
    """LibLZF stream: literal runs (control < 32) and back references; returns bytes written, -1 if broken."""
    i, o = 0, 0
    while i < packed.size:
        control = int(packed[i])
        i += 1
        if control < 32:
            length = control + 1
            if i + length > packed.size or o + length > out.size:
                return -1
            out[o : o + length] = packed[i : i + length]
            i += length
            o += length
            continue
        length = control >> 5
        if length == 7:
            if i >= packed.size:
                return -1
            length += int(packed[i])
            i += 1
        if i >= packed.size:
            return -1
        reference = o - ((control & 31) << 8) - int(packed[i]) - 1
        i += 1
        length += 2
        if reference < 0 or o + length > out.size:
            return -1
        for k in range(length):  # byte by byte: source and destination may overlap
            out[o + k] = out[reference + k]
        o += length
    return o


def _intensity(columns: dict[str, np.ndarray], points: int) -> NDArray[np.float32]:
    if "intensity" in columns:
        return columns["intensity"].astype(np.float32)
    if "rgb" not in columns:
        return np.full(points, np.nan, np.float32)
    packed = columns["rgb"]
    if packed.dtype == np.float32:  # binary: the colour's bits stored as a float
        packed = packed.view(np.uint32)
    elif packed.dtype == np.float64 and not _is_integral(packed):  # ascii: the float's value as text
        packed = packed.astype(np.float32).view(np.uint32)
    red = (packed.astype(np.int64) >> 16) & 255
    return (red / 255.0).astype(np.float32)


def _is_integral(values: NDArray[np.float64]) -> bool:
    """Text holds either the packed integer (255 << 16) or the float with the same bits (about 1e-38)."""
    return bool((values == np.floor(values)).all())
