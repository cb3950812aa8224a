import os
from pathlib import Path

import pytest

from dni_fx.errors import FileError
from dni_fx.files import check_place, write_whole


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(FileError, match=r"cannot write .*nowhere/a: No such file"):
        write_whole(tmp_path / "nowhere" / "a", b"new")
    with pytest.raises(FileError, match="cannot write"):
        write_whole(tmp_path, b"new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("check", [check_place, lambda path: write_whole(path, b"new")])
def test_what_is_no_file_is_never_replaced_by_one(check, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    before = Path("/dev/null").stat()
    for path in (Path("/dev/null"), tmp_path / "link", tmp_path / "pipe"):
        with pytest.raises(FileError, match="it is a device or a pipe"):
            check(path)
    assert Path("/dev/null").stat() == before
    for path, says in [
        (tmp_path, "it is a folder. Name a file in it"),
        (tmp_path / ("a" * 300), "name too long"),
        (tmp_path / "nowhere" / "a", "No such file"),
        (tmp_path / "pipe" / "a", "Not a directory"),
    ]:
        with pytest.raises(FileError, match=f"(?i)cannot write .*{says}"):
            check(path)
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link"}
