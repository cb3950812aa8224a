"""A folder of stages is read as what a stranger may have sent."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dni_fx.errors import FileError
from dni_fx.exporters import manifest as manifests
from dni_fx.exporters.chain import Chain
from dni_fx.exporters.manifest import read_manifest
from dni_fx.exporters.onnx_stages import OnnxStages
from dni_fx.marker import Marker

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = nn.Sequential(nn.Linear(4, 8), Marker("middle"), nn.ReLU(), nn.Linear(8, 3)).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (torch.randn(2, 4),), dynamic_shapes=shapes)
    return OnnxStages().write(program, tmp_path_factory.mktemp("stages") / "m").path


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "m"))


def edited(folder: Path, edit: Edit) -> None:
    path = folder / manifests.NAME
    read = json.loads(path.read_text())
    edit(read)
    path.write_text(json.dumps(read))


def test_reading_is_the_inverse_of_writing(folder: Path) -> None:
    found = read_manifest(folder)
    assert (folder / manifests.NAME).read_text() == found.to_json()
    assert sorted(found.files) == sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "name",
    ["../stage_0.onnx", "/etc/hostname", "sub/stage_0.onnx", "..", ".", "", "a\\b", "C:x", "a\0b", "x" * 300],
)
@pytest.mark.parametrize("key", ["file", "data"])
def test_a_name_that_is_no_file_of_the_folder_is_refused(name: str, key: str, folder: Path) -> None:
    name = name or "." if key == "data" else name  # a stage may have no file beside it
    edited(folder, lambda read: read["stages"][0].update({key: name}))
    with pytest.raises(FileError, match=r"refused to read (.|\n)*is not the name of a file in the folder"):
        read_manifest(folder)


def test_a_link_is_refused_wherever_it_leads(folder: Path) -> None:
    stage = folder / "stage_0.onnx"
    stage.rename(folder / "other.onnx")
    stage.symlink_to(folder / "other.onnx")
    with pytest.raises(FileError, match=r"stage_0\.onnx is a link"):
        read_manifest(folder)


def test_a_manifest_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / manifests.NAME
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(FileError, match="no plain file"):
        read_manifest(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "stage_1.onnx").unlink()
    with pytest.raises(FileError, match=r"stage_1\.onnx: No such file"):
        read_manifest(folder)


def test_a_folder_that_is_none_of_ours_says_how_one_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"No such file.*exporter=\"onnx-stages\""):
        read_manifest(tmp_path)


def test_a_newer_version_is_refused_by_its_number(folder: Path) -> None:
    edited(folder, lambda read: read.update(version=2))
    with pytest.raises(FileError, match=r"version 2, newer than 1.*Install a newer dni_fx"):
        read_manifest(folder)


def test_a_manifest_too_large_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_LARGEST", 100)
    with pytest.raises(FileError, match="more than any manifest has"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda read: read.clear(),
        lambda read: read.update(format="other"),
        lambda read: read.update(stages=3),
        lambda read: read["stages"].append(None),
        lambda read: read["stages"][0].pop("file"),
        lambda read: read["stages"][0].update(file=7),
        lambda read: read["inputs"][0].update(shape="4"),
        lambda read: read["inputs"][0].update(shape=[[4]]),
        lambda read: read["outputs"][0].update({"from": "nowhere"}),
        lambda read: read.update(shared=[]),
    ],
)
def test_a_manifest_of_another_form_is_refused(edit: Edit, folder: Path) -> None:
    edited(folder, edit)
    with pytest.raises(FileError, match=r"it is not what dni_fx writes there"):
        read_manifest(folder)


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"[" * 100_000, b"[]", b"1"])
def test_what_is_no_json_object_is_refused(text: bytes, folder: Path) -> None:
    (folder / manifests.NAME).write_bytes(text)
    with pytest.raises(FileError, match=r"it is not what dni_fx writes there"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda read: read["stages"].reverse(), "stage 1 reads 'middle', which nothing before it writes"),
        (lambda read: read["stages"][1]["inputs"][0].update(name="x"), "stage 1 reads 'x', which nothing"),
        (lambda read: read["outputs"][0].update(name="x"), "the output 'x' is written by no stage"),
        (lambda read: read["stages"].append(read["stages"][0]), "two stages have one file"),
        (lambda read: read["stages"][0]["outputs"][0].update(name="input"), "'input' is written twice"),
    ],
)
def test_stages_that_do_not_fit_together_are_refused(edit: Edit, says: str, folder: Path) -> None:
    edited(folder, edit)
    with pytest.raises(FileError, match=says):
        read_manifest(folder)


def test_a_file_that_reads_something_else_than_the_manifest_says_is_refused(folder: Path) -> None:
    shutil.copyfile(folder / "stage_0.onnx", folder / "stage_1.onnx")
    with pytest.raises(
        FileError, match=r"stage_1\.onnx: it takes input and returns middle, and the manifest"
    ):
        Chain(folder)


def test_weights_that_lie_outside_of_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "stage_0.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    (folder / "w.data").rename(tmp_path / "w.data")
    for weight in model.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = "../w.data"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FileError, match=r"cannot run .*stage_0\.onnx"):
        Chain(folder)


def test_the_chain_asks_for_the_inputs_by_name(folder: Path) -> None:
    chain, x = Chain(folder), np.ones((2, 4), np.float32)
    assert chain.run({"input": x})["output"].shape == (2, 3)
    with pytest.raises(ValueError, match="the model takes input; missing: input"):
        chain.run({})
    with pytest.raises(ValueError, match="the model takes input, and not y"):
        chain.run({"input": x, "y": x})
