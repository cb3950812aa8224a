"""What lies beside an ONNX file: its own weights, and nothing of a model that was there before."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from dni_fx.errors import FileError
from dni_fx.exporters import onnx as exporter
from dni_fx.exporters.onnx import Onnx


def program() -> ExportedProgram:
    return torch.export.export(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 4)), (torch.randn(2, 4),))


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose weights lie in another one; what is written from now on has them inside."""
    with monkeypatch.context() as patched:
        patched.setattr(exporter, "_WEIGHTS_INSIDE", 0)
        Onnx(check=False).write(program(), tmp_path / "m.onnx")
    assert {each.name for each in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data"}
    return tmp_path / "m.onnx"


def test_weights_of_a_model_that_is_replaced_go_with_it(large: Path) -> None:
    Onnx().write(program(), large)
    assert list(large.parent.iterdir()) == [large]


def with_other_weights(path: Path) -> None:
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="other.data", size_threshold=0)


def made_by_others(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    model.producer_name = "others"
    path.write_bytes(model.SerializeToString())


def with_weights_inside(path: Path) -> None:
    onnx.save(onnx.load(path), path)


CHANGES = [Path.unlink, lambda path: path.write_bytes(b"no model"), with_weights_inside, with_other_weights]


@pytest.mark.parametrize("change", [*CHANGES, made_by_others])
def test_a_file_that_is_not_the_old_models_stays(change: Callable[[Path], object], large: Path) -> None:
    data = large.with_name("m.onnx.data")
    before = data.read_bytes()
    change(large)
    Onnx().write(program(), large)
    assert data.read_bytes() == before


def test_a_link_in_the_place_of_the_weights_stays(large: Path) -> None:
    data, elsewhere = large.with_name("m.onnx.data"), large.with_name("elsewhere")
    data.replace(elsewhere)
    data.symlink_to(elsewhere)
    Onnx().write(program(), large)
    assert data.is_symlink()
    assert elsewhere.exists()


def test_a_move_that_fails_leaves_the_old_weights(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file: file.read_bytes() for file in large.parent.iterdir()}
    replace = Path.replace

    def fail_at_the_model(self: Path, target: Path) -> Path:
        if target == large:
            raise PermissionError(13, "Permission denied", str(large))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_at_the_model)
    with pytest.raises(FileError, match="Permission denied"):
        Onnx().write(program(), large)
    assert {file: file.read_bytes() for file in large.parent.iterdir()} == before
