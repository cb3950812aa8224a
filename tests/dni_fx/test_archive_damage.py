from __future__ import annotations

import io
import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dni_fx.archive import Archive, read, write
from dni_fx.errors import FileError
from tests.archives import mlp, program, rewrite, rows, saved, state_of


def _digest(archive: Archive) -> list[bytes]:
    tensors = {**state_of(archive.programs["eval"]), **state_of(archive.programs["train"]), **archive.state}
    graphs = [str(archive.programs[mode].graph) for mode in ("eval", "train")]
    return [t.detach().numpy().tobytes() for t in tensors.values()] + [
        json.dumps([graphs, archive.meta]).encode()
    ]


def test_a_flipped_bit_is_reported_or_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt2")
    good, expected = path.read_bytes(), _digest(read(path))
    chance = random.Random(0)
    reported = 0
    for _ in range(60):
        position = chance.randrange(len(good))
        path.write_bytes(
            good[:position] + bytes([good[position] ^ 1 << chance.randrange(8)]) + good[position + 1 :]
        )
        try:
            unchanged = _digest(read(path)) == expected
        except FileError:
            reported += 1
        else:
            assert unchanged
    assert reported > 30  # the others hit dates and padding between members


def test_a_damaged_weight_is_reported_by_its_member(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt2")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("archive/data/weights/weight_1")
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(info.filename)] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"CRC.*data/weights/weight_1"):
        read(path)


@pytest.mark.parametrize("kept", [0, 3, 1000, -1])
def test_a_file_that_was_cut_short_is_reported(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path / "m.pt2")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FileError, match="cut short" if kept not in (0, 3) else "not a .pt2 file"):
        read(path)


def test_files_of_other_kinds_are_reported(tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("not an archive")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt2")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(FileError, match="not a zip file"):
        read(tmp_path / "text.pt2")
    with pytest.raises(FileError, match=r"not of the \.pt2 format"):
        read(tmp_path / "state.pt2")
    with pytest.raises(FileError, match="Is a directory"):
        read(tmp_path / "folder.pt2")
    with pytest.raises(FileError, match="No such file"):
        read(tmp_path / "missing.pt2")


def test_a_newer_version_is_refused_by_its_number(tmp_path: Path) -> None:
    def newer(content: bytes) -> bytes:
        return json.dumps(json.loads(content) | {"version": 7}).encode()

    path = rewrite(saved(tmp_path / "m.pt2"), {"extra/dni_fx.json": newer})
    with pytest.raises(FileError, match="version 7, newer than 1"):
        read(path)


def test_a_missing_table_is_reported(tmp_path: Path) -> None:
    path = rewrite(saved(tmp_path / "m.pt2"), {"data/weights/train_weights_config.json": lambda _: None})
    with pytest.raises(FileError, match=r"no data/weights/train_weights_config\.json"):
        read(path)


@pytest.mark.parametrize(
    ("field", "value"), [("sizes", [{"as_int": 99}]), ("storage_offset", {"as_int": 10**9}), ("dtype", 77)]
)
def test_a_tensor_that_reaches_out_of_its_memory_is_reported(tmp_path: Path, field: str, value: Any) -> None:
    def reach(content: bytes) -> bytes:
        table = json.loads(content)
        table["config"]["0.bias"]["tensor_meta"][field] = value
        return json.dumps(table).encode()

    path = rewrite(saved(tmp_path / "m.pt2"), {"data/weights/model_weights_config.json": reach})
    with pytest.raises(FileError, match=r"model_weights_config\.json does not fit the file"):
        read(path)


def _failing(path: Path) -> None:
    sparse = {"table": torch.eye(3).to_sparse()}
    write(path, {"eval": program(mlp().double().eval(), rows())}, sparse, {})


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    path.write_bytes(b"precious")
    with pytest.raises(FileError, match="cannot write the tensor table"):
        _failing(path)
    with pytest.raises(FileError, match="not JSON serializable"):
        write(path, {"eval": program(mlp().double().eval(), rows())}, {}, {"plan": object()})
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_reported_with_the_reason(tmp_path: Path) -> None:
    programs = {"eval": program(mlp().double().eval(), rows())}
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(FileError, match=r"cannot write .*missing/m.pt2: No such file"):
        write(tmp_path / "missing" / "m.pt2", programs, {}, {})
    with pytest.raises(FileError, match=r"cannot write .*file/m.pt2: Not a directory"):
        write(tmp_path / "file" / "m.pt2", programs, {}, {})
    with pytest.raises(FileError, match=r"cannot write .*folder.pt2: it is a folder"):
        write(tmp_path / "folder.pt2", programs, {}, {})
    assert {each.name for each in tmp_path.iterdir()} == {"file", "folder.pt2"}


def test_a_file_that_is_replaced_keeps_its_permissions_and_a_link_stays_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "m.pt2", tmp_path / "latest.pt2"
    path.write_bytes(b"")
    path.chmod(0o640)
    link.symlink_to(path)
    write(link, {"eval": program(mlp().double().eval(), rows())}, {}, {"n": 2})
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert read(path).meta == {"n": 2}


def test_inputs_that_do_not_unpickle_safely_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (os.fspath(tmp_path / "bomb"),)

    buffer = io.BytesIO()
    torch.save(((torch.ones(2), Bomb()), {}), buffer)
    path = rewrite(saved(tmp_path / "m.pt2"), {"data/sample_inputs/model.pt": lambda _: buffer.getvalue()})
    with pytest.raises(FileError, match="can run code"):
        read(path)
    assert not (tmp_path / "bomb").exists()
