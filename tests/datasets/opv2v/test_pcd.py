"""PCD in all encodings, written here by hand; truncated files are refused."""

import struct

import numpy as np
import pytest

from coop3d.datasets.errors import DataError
from coop3d.datasets.opv2v import read_pcd

XYZ = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32) * 30
RED = np.random.default_rng(1).integers(0, 256, 300)
HEADER = (
    "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z {last}\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
    "WIDTH 300\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 300\nDATA {data}\n"
)


def lzf_literal(data: bytes) -> bytes:
    """The simplest valid LZF stream: literal runs, then one overlapping back reference for 40 equal bytes."""
    out = bytearray()
    for i in range(0, len(data), 32):
        run = data[i : i + 32]
        out += bytes([len(run) - 1]) + run
    return bytes(out)


def write(path, encoding, last="rgb"):
    packed = (
        (RED << 16).astype(np.uint32).view(np.float32) if last == "rgb" else (RED / 255).astype(np.float32)
    )
    table = np.column_stack([XYZ, packed])
    header = HEADER.format(last=last, data=encoding).encode()
    if encoding == "ascii":
        number = (lambda i: str(RED[i] << 16)) if last == "rgb" else (lambda i: f"{packed[i]:.9g}")
        rows = "\n".join(f"{x:.9g} {y:.9g} {z:.9g} {number(i)}" for i, (x, y, z) in enumerate(XYZ))
        body = rows.encode() + b"\n"
    elif encoding == "binary":
        body = table.astype("<f4").tobytes()
    else:
        raw = table.astype("<f4").T.tobytes()  # field after field
        compressed = lzf_literal(raw)
        body = struct.pack("<II", len(compressed), len(raw)) + compressed
    path.write_bytes(header + body)
    return path


@pytest.mark.parametrize("last", ["rgb", "intensity"])
@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_all_encodings_give_the_same_cloud(tmp_path, encoding, last):
    cloud = read_pcd(write(tmp_path / "a.pcd", encoding, last))
    np.testing.assert_allclose(cloud.xyz, XYZ, rtol=1e-6)
    np.testing.assert_allclose(cloud.intensity, RED / 255, atol=1e-6)


def test_ascii_rgb_written_as_a_float(tmp_path):
    """Open3D prints the packed colour's float value (around 1e-38) instead of its integer."""
    path = write(tmp_path / "a.pcd", "ascii")
    packed = (RED << 16).astype(np.uint32).view(np.float32)
    rows = [f"{x:.9g} {y:.9g} {z:.9g} {c:.9g}" for (x, y, z), c in zip(XYZ, packed, strict=True)]
    header = path.read_bytes().split(b"DATA ascii\n")[0]
    path.write_bytes(header + b"DATA ascii\n" + "\n".join(rows).encode())
    np.testing.assert_allclose(read_pcd(path).intensity, RED / 255, atol=1e-6)


SPELLINGS = [
    "0",
    "-0",
    "+7",
    "12.",
    ".5",
    "-3.25",
    "1e3",
    "1E-3",
    "2.5e+02",
    "-1.7976931348623157e30",
    "1e22",
    "1e23",
]
SPELLINGS += [
    "123456789012345",
    "1234567890123456",
    "0.1234567890123456789",
    "4.94065646e-324",
    "nan",
    "-inf",
    "1e-9",
]


@pytest.mark.parametrize("number", SPELLINGS)
def test_every_spelling_of_a_number_is_read(tmp_path, number):
    """Some by the fast parser, the others by Python's, which says what is right."""
    path = write(tmp_path / "a.pcd", "ascii", "intensity")
    rows = path.read_text().splitlines()
    rows[11:14] = [f"1 2 3 {number}", f"\t1\t2  3 {number} \r", f"1 2 3 {number}"]
    path.write_text("\n".join(rows))
    found = read_pcd(path).intensity[:3]
    np.testing.assert_array_equal(found, np.full(3, np.float32(float(number))))


@pytest.mark.parametrize("number", ["1.2.3", "--1", "1e", "e5", ".", "-", "1e5x", "1,5", "0x10"])
def test_what_is_no_number_is_refused(tmp_path, number):
    path = write(tmp_path / "a.pcd", "ascii", "intensity")
    path.write_text(path.read_text().replace("DATA ascii\n", f"DATA ascii\n1 2 3 {number}\n"))
    with pytest.raises(DataError, match="text that is not a number"):
        read_pcd(path)


def test_random_numbers_are_the_nearest_floats(tmp_path):
    rng = np.random.default_rng(3)
    xyz = rng.normal(size=(300, 3)) * 10.0 ** rng.integers(-12, 13, (300, 3))
    rows = "\n".join(f"{x!r} {y:.15g} {z:.9g} 0.5" for x, y, z in xyz.tolist())
    path = tmp_path / "a.pcd"
    path.write_text(HEADER.format(last="intensity", data="ascii") + rows)
    expected = np.array([[float(n) for n in row.split()[:3]] for row in rows.splitlines()], np.float32)
    np.testing.assert_array_equal(read_pcd(path).xyz, expected)


def test_padding_fields_may_share_a_name(tmp_path):
    """As PCL writes x, y, z with padding: the name _ more than once."""
    path = write(tmp_path / "a.pcd", "binary", "intensity")
    header, body = path.read_bytes().split(b"DATA binary\n")
    header = header.replace(b"x y z intensity", b"x y z _ intensity _").replace(b"4 4 4 4", b"4 4 4 4 4 1")
    header = header.replace(b"F F F F", b"F F F U F U").replace(b"1 1 1 1", b"1 1 1 1 1 1")
    rows = np.zeros(300, np.dtype([("xyz", "<f4", 3), ("a", "<u4"), ("i", "<f4"), ("b", "u1")]))
    table = np.frombuffer(body, "<f4").reshape(300, 4)
    rows["xyz"], rows["i"] = table[:, :3], table[:, 3]
    path.write_bytes(header + b"DATA binary\n" + rows.tobytes())
    cloud = read_pcd(path)
    np.testing.assert_array_equal(cloud.xyz, XYZ)
    np.testing.assert_allclose(cloud.intensity, RED / 255, atol=1e-6)


def test_an_organised_cloud_without_a_count_is_read_whole(tmp_path):
    path = write(tmp_path / "a.pcd", "binary")
    raw = path.read_bytes().replace(b"WIDTH 300\nHEIGHT 1\n", b"WIDTH 100\nHEIGHT 3\n")
    path.write_bytes(raw.replace(b"POINTS 300\n", b""))
    np.testing.assert_array_equal(read_pcd(path).xyz, XYZ)


def test_lzf_back_references(tmp_path):
    """'abcd' then a long overlapping copy: 4 + 44 bytes that decode to 12 equal float words."""
    word = np.float32(1.25).tobytes()
    raw = word * 12  # 3 points of 4 fields
    length = len(raw) - 4 - 2  # LZF stores length - 2
    compressed = bytes([3]) + word + bytes([7 << 5, length - 7, 3])  # distance 4 is stored as 3
    header = HEADER.format(last="intensity", data="binary_compressed").replace("300", "3").encode()
    path = tmp_path / "a.pcd"
    path.write_bytes(header + struct.pack("<II", len(compressed), len(raw)) + compressed)
    np.testing.assert_array_equal(read_pcd(path).xyz, np.full((3, 3), 1.25))


def test_points_without_a_return_are_dropped(tmp_path):
    path = write(tmp_path / "a.pcd", "ascii")
    text = path.read_text().splitlines()
    text[11] = "nan nan nan 0"
    path.write_text("\n".join(text))
    assert len(read_pcd(path).xyz) == 299


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
@pytest.mark.parametrize("keep", [0.3, 0.97])
def test_truncated_file_is_refused(tmp_path, encoding, keep):
    path = write(tmp_path / "a.pcd", encoding)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(DataError, match=r"a\.pcd: (truncated|no DATA)"):
        read_pcd(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"DATA binary", b"DATA zip", "expected ascii, binary or binary_compressed"),
        (b"FIELDS x y z", b"FIELDS a y z", "expected single x, y, z"),
        (b"TYPE F F F F", b"TYPE Q F F F", "malformed PCD header"),
    ],
)
def test_broken_headers(tmp_path, old, new, message):
    path = write(tmp_path / "a.pcd", "binary")
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(DataError, match=message):
        read_pcd(path)


def test_missing_and_garbage(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_pcd(tmp_path / "none.pcd")
    (tmp_path / "g.pcd").write_bytes(b"\x00" * 9000)
    with pytest.raises(DataError, match="no DATA line"):
        read_pcd(tmp_path / "g.pcd")
