import pytest

from dni_fx.errors import FileError
from dni_fx.files import write_whole


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
