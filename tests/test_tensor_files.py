"""A `.safetensors` file is read if its table is no larger than the file, whoever names it."""

import json
import os
import struct
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from dni_fx import tensor_files
from dni_fx.cli.named_files import read_state
from dni_fx.errors import FileError
from dni_fx.tensor_files import read_description, read_tensor_file, read_tensors, write_folder

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True, False])}


def test_what_safetensors_wrote_is_read_back(tmp_path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    found = read_tensor_file(tmp_path / "w.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], each) for name, each in TENSORS.items())


def test_what_is_written_has_the_permissions_of_any_new_file(tmp_path):
    """By itself safetensors lets nobody read it but its owner."""
    write_folder(tmp_path / "written", {}, TENSORS)
    (tmp_path / "any").touch()
    usual = (tmp_path / "any").stat().st_mode
    assert {each.stat().st_mode for each in (tmp_path / "written").iterdir()} == {usual}


def huge(text: bytes) -> bytes:
    return struct.pack("<Q", 2**40) + text


@pytest.mark.parametrize("content", [b"", b"abc", huge(b"{}"), struct.pack("<Q", 2) + b"[]"])
@pytest.mark.parametrize("read", [read_tensor_file, read_state])
def test_what_is_no_such_file_is_refused(content, read, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(FileError, match=r"cannot read .*w.safetensors: "):
        read(tmp_path / "w.safetensors")


def test_a_table_beyond_the_limit_is_not_read_by_any_way_in(tmp_path, monkeypatch):
    write_folder(tmp_path / "shared", {}, TENSORS)
    save_file(TENSORS, tmp_path / "w.safetensors")
    monkeypatch.setattr(tensor_files, "_MOST_HEADER", 8)
    described = json.loads((tmp_path / "shared" / "dni_fx.json").read_text("utf-8"))
    for read in (
        lambda: read_tensors(tmp_path / "shared", described),
        lambda: read_state(tmp_path / "w.safetensors"),
    ):
        with pytest.raises(FileError, match="its table claims"):
            read()


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(FileError, match="a device or a pipe"):
        read_state(tmp_path / "w.safetensors")


def test_what_a_killed_process_left_behind_is_removed(tmp_path):
    write_folder(tmp_path, {}, TENSORS)
    (killed := subprocess.Popen(["true"])).wait()
    left, alive = tmp_path / f".dni_fx.ab.{killed.pid}.part", tmp_path / f".dni_fx.ab.{os.getpid()}.part"
    orphan = tmp_path / f"dni_fx-{'0' * 16}.safetensors"
    for each in (left, alive, orphan):
        each.touch()
    write_folder(tmp_path, {}, TENSORS)
    assert [each.exists() for each in (left, alive, orphan)] == [False, True, False]


@pytest.mark.parametrize("is_there", [False, True], ids=["before", "after"])
def test_whenever_it_is_interrupted_a_folder_is_whole(is_there, tmp_path, monkeypatch):
    """The new numbers were removed where the description that names them was there already."""
    write_folder(tmp_path, {}, {"x": torch.zeros(2)})
    once = tensor_files.write_whole

    def interrupted(path, data):
        once(path, data) if is_there else None
        raise KeyboardInterrupt

    monkeypatch.setattr(tensor_files, "write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path, {}, {"x": torch.ones(2)})
    found = read_tensors(tmp_path, read_description(tmp_path))
    assert torch.equal(found["x"], torch.full((2,), float(is_there)))
