"""Files are replaced whole."""

from pathlib import Path

import pytest

from coop3d.files import replacing, safe_name, write_bytes, write_text


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


def test_folders_are_made_and_content_is_whole(tmp_path):
    path = tmp_path / "a" / "b.txt"
    assert write_text(path, "Grüße") == path
    assert path.read_bytes() == "Grüße".encode()
    write_bytes(path, memoryview(b"\x00\xff"))
    assert path.read_bytes() == b"\x00\xff"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "name"), [("2021_08/000069", "2021_08_000069"), ("../..", "_"), ("", "_"), ("a b<c>", "a_b_c_")]
)
def test_names_cannot_leave_their_folder(tmp_path, text, name):
    assert safe_name(text) == name
    assert (tmp_path / safe_name(text)).parent == Path(tmp_path)
