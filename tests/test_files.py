"""Files are replaced whole."""

import csv
import errno
import json
import math
import re
from pathlib import Path

import pytest
from support.disk import full_disk

from coop3d.files import (
    csv_text,
    names_apart,
    replacing,
    safe_name,
    without_common_end,
    write_bytes,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.pth"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_is_named_by_its_file(tmp_path):
    """The system's own error has no file name."""
    path = tmp_path / "x.png"
    path.write_text("old")
    with full_disk(10), pytest.raises(OSError, match=re.escape(f"'{path}'")) as raised:
        write_bytes(path, bytes(100))
    assert raised.value.errno == errno.EFBIG
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_and_content_is_whole(tmp_path):
    path = tmp_path / "a" / "b.txt"
    assert write_text(path, "Grüße") == path
    assert path.read_bytes() == "Grüße".encode()
    write_bytes(path, memoryview(b"\x00\xff"))
    assert path.read_bytes() == b"\x00\xff"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2021_08/000069", "2021_08_000069"),
        ("../..", "_"),
        ("", "_"),
        ("a b<c>", "a_b_c_"),
        ("雨夜/路口", "雨夜_路口"),  # two of these must not become one name
        ("Grüße", "Grüße"),
    ],
)
def test_names_cannot_leave_their_folder(tmp_path, text, name):
    assert safe_name(text) == name
    assert (tmp_path / safe_name(text)).parent == Path(tmp_path)


def test_json_has_null_for_what_is_no_finite_number(tmp_path):
    value = {"a": [1.5, math.nan, (math.inf, "x")], 3: tmp_path, "b": None}
    path = write_json(tmp_path / "x.json", value)
    assert json.loads(path.read_text()) == {"a": [1.5, None, [None, "x"]], "3": str(tmp_path), "b": None}
    assert path.read_text().endswith("}\n")


def test_csv_reads_back_to_the_same_bits():
    text = csv_text(("name", "value"), [("a,b", 0.1 + 0.2), ("c", math.nan)])
    head, first, second = csv.reader(text.splitlines())
    assert (head, first[0], float(first[1])) == (["name", "value"], "a,b", 0.1 + 0.2)
    assert second == ["c", "nan"]


def test_an_end_that_all_paths_share_is_cut_off():
    paths = [Path("/x/base/seed0/evaluation/test"), Path("/x/other/seed0/evaluation/test")]
    assert without_common_end(paths) == [Path("/x/base"), Path("/x/other")]
    assert without_common_end(paths[:1]) == paths[:1]
    assert without_common_end([paths[0]] * 2) == [paths[0]] * 2
    assert without_common_end([Path("/a"), Path("/b/a")]) == [Path("/a"), Path("/b/a")]
    mixed = [Path("/x/a/test"), Path("/x/b/val")]
    assert without_common_end(mixed) == mixed


def test_names_have_as_many_folders_as_tell_them_apart():
    paths = [Path("/x/a/seed0"), Path("/x/b/seed0"), Path("/x/b/seed1")]
    assert names_apart(paths) == ["a/seed0", "b/seed0", "b/seed1"]
    assert names_apart(paths[1:]) == ["seed0", "seed1"]
    assert names_apart([Path()]) == [""]
    with pytest.raises(ValueError, match="given twice: /x, /x"):
        names_apart([Path("/x"), Path("/x")])
