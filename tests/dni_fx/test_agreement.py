import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dni_fx.errors import ExportError
from dni_fx.exporters import agreement
from dni_fx.exporters.onnx import Onnx
from dni_fx.marker import Marker


def mlp(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), Marker("one"), nn.ReLU(), nn.Linear(8, 4), *more)


def program(model: nn.Module, x: Tensor, training: bool = False) -> ExportedProgram:
    return torch.export.export(model.train(training), (x,), dynamic_shapes=({0: Dim.DYNAMIC},))


class BatchStatistics(nn.Module):
    """Batch norm in training mode over statistics of no consequence: the exporter translates it wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean.clone(), self.var.clone(), training=True)


def test_every_size_that_may_vary_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, ...]] = []
    original = onnxruntime.InferenceSession.run

    def spy(self: Any, names: Any, feeds: Any) -> Any:
        tried.extend(array.shape for array in feeds.values())
        return original(self, names, feeds)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", spy)
    sizes = ({0: 2 * Dim("pairs", max=8), 1: Dim("time", max=3), 2: None},)
    given = torch.export.export(
        nn.Sequential(Marker("a"), nn.Tanh()), (torch.randn(4, 3, 2),), dynamic_shapes=sizes
    )
    Onnx().write(given, tmp_path / "m.onnx")
    assert tried == [(4, 3, 2), (6, 2, 2)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_float_widths_are_written_in_their_own(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.randn(3, 4, dtype=dtype)
    model = mlp().to(dtype).eval()
    written = Onnx().write(program(model, x), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(written.path), providers=["CPUExecutionProvider"])
    found = torch.as_tensor(session.run(None, {"input": x.numpy()})[0])
    torch.testing.assert_close(found, model(x), rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_a_wrong_translation_is_refused_with_the_figure(tmp_path: Path) -> None:
    given = program(mlp(BatchStatistics()), torch.randn(3, 4))
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    with pytest.raises(ExportError, match=r"off by \d.*PyTorch's \(allowed .*shape \(3, 4\).*eval\(\)"):
        Onnx().write(given, path)
    assert path.read_bytes() == b"before"
    assert Onnx(check=False).write(given, path).difference is None


def test_a_program_without_example_is_checked_only_by_saying_so(tmp_path: Path) -> None:
    given = program(mlp(), torch.randn(2, 4))
    given.example_inputs = None
    with pytest.raises(ExportError, match=r"carries no example inputs.*check=false"):
        Onnx().write(given, tmp_path / "m.onnx")
    assert Onnx(check=False).write(given, tmp_path / "m.onnx").interfaces == ("one",)


def test_without_onnxruntime_a_file_is_written_by_asking_for_no_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    given = program(mlp(), torch.randn(2, 4))
    with pytest.raises(ExportError, match="skip the comparison with PyTorch: onnx:check=false"):
        Onnx().write(given, tmp_path / "m.onnx")
    assert "not compared" in str(Onnx(check=False).write(given, tmp_path / "m.onnx"))


def test_random_outputs_agree_with_nothing_and_the_random_state_stays(tmp_path: Path) -> None:
    given = program(mlp(nn.Dropout(0.5)), torch.randn(64, 4), training=True)
    state = torch.get_rng_state()
    with pytest.raises(ExportError, match="dropout is random"):
        Onnx().write(given, tmp_path / "m.onnx")
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize(("value", "agrees"), [(0.0, True), (0.99e-5, True), (1.5e-5, False)])
def test_floats_may_differ_by_the_tolerance_and_no_more(value: float, agrees: bool) -> None:
    x = torch.zeros(3, dtype=torch.float64)
    if agrees:
        assert agreement.difference("y", x, x + value, "x") == value
    else:
        with pytest.raises(ExportError, match=r"'y' in the file is off by 1\.5e-05"):
            agreement.difference("y", x, x + value, "x")


def test_the_tolerance_grows_with_the_largest_finite_element() -> None:
    x = torch.tensor([0.0, 1e6, torch.inf, torch.nan], dtype=torch.float64)
    assert agreement.difference("y", x, x + 9.0, "x") == 9.0
    with pytest.raises(ExportError, match="off by 11"):
        agreement.difference("y", x, x + 11.0, "x")


@pytest.mark.parametrize(
    "found",
    [
        torch.tensor([1, 3]),
        torch.tensor([1.0, 2.0]),
        torch.tensor([[1, 2]]),
    ],
)
def test_integers_dtypes_and_shapes_are_equal_or_refused(found: Tensor) -> None:
    with pytest.raises(ExportError, match="output 'y'"):
        agreement.difference("y", torch.tensor([1, 2]), found, "x")


@pytest.mark.parametrize("found", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_on_one_side_is_refused(found: float) -> None:
    for pair in ((1.0, found), (found, 1.0)):
        with pytest.raises(ExportError, match="output 'y'"):
            agreement.difference("y", torch.tensor([pair[0], 2.0]), torch.tensor([pair[1], 2.0]), "x")
