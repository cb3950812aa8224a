import itertools
import logging
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dni_fx.errors import ExportError, FileError
from dni_fx.exporters import onnx as exporter
from dni_fx.exporters.onnx import Onnx
from dni_fx.marker import Marker

TOLERANCE = 1e-5  # two libraries sum in different orders
LEVELS = onnxruntime.GraphOptimizationLevel.__members__


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mark, self.out = nn.Embedding(11, 8), Marker("embed"), nn.Linear(8, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.mark(self.embed(tokens)))


class TwoByTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(3, 6)
        self.mark_left, self.mark_right = Marker("left"), Marker("right")

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.mark_left(self.left(x)), self.mark_right(self.right(y))
        return a * b, (a - b).tanh()


class Named(nn.Module):
    """Returns the same tensor twice, its input, a weight and None, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.mark = nn.Linear(4, 4), Marker("a")

    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> dict[str, Any]:
        y = self.mark(self.linear(x)) * scale
        kept = {"logits": y, "hidden": (y + 1, y * y), "weight": self.linear.weight}
        return {**kept, "again": y, "x": x, "none": mask}


def mlp(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), Marker("one"), nn.ReLU(), nn.Linear(8, 4), Marker("two"), *more)


def conv() -> nn.Module:
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), Marker("conv"), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4 * 36, 5))


def block() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(layer, Marker("first"), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))


def batch(kind: str, size: int) -> tuple[Tensor, ...]:
    torch.manual_seed(size)
    shapes: Mapping[str, tuple[tuple[int, ...], ...]] = {
        "mlp": ((4,),),
        "conv": ((3, 6, 6),),
        "block": ((5, 8),),
        "two": ((4,), (3,)),
    }
    if kind == "embedded":
        return (torch.randint(0, 11, (size, 5)),)
    return tuple(torch.randn(size, *shape) for shape in shapes[kind])


MODELS = {"mlp": mlp, "conv": conv, "block": block, "embedded": Embedded, "two": TwoByTwo}


def program(model: nn.Module, *args: Any, training: bool = False) -> ExportedProgram:
    shapes = [{0: Dim.DYNAMIC} if isinstance(arg, Tensor) else None for arg in args]
    return torch.export.export(model.train(training), args, dynamic_shapes=tuple(shapes))


def run(path: Path, args: tuple[Tensor, ...], level: str = "ORT_ENABLE_ALL") -> list[Tensor]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {put.name: arg.numpy() for put, arg in zip(session.get_inputs(), args, strict=True)}
    return [torch.as_tensor(found) for found in session.run(None, feeds)]


def interface_nodes(path: Path) -> list[onnx.NodeProto]:
    return [node for node in onnx.load(path).graph.node if node.domain == "dni_fx"]


@pytest.mark.parametrize("kind", MODELS)
def test_the_file_computes_what_the_model_does_at_every_batch_and_optimization(
    kind: str, tmp_path: Path
) -> None:
    model = MODELS[kind]().eval()
    written = Onnx(check=False).write(program(model, *batch(kind, 2)), tmp_path / "m.onnx")
    assert written.dynamic
    for size, level in itertools.product((1, 2, 7), LEVELS):
        args = batch(kind, size)
        expected = model(*args)
        expected = [expected] if isinstance(expected, Tensor) else list(expected)
        torch.testing.assert_close(run(written.path, args, level), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", MODELS)
def test_the_file_has_a_node_for_each_marker_and_passes_the_checker(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    markers = [part.boundary for part in model.modules() if isinstance(part, Marker)]
    written = Onnx().write(program(model, *batch(kind, 2)), tmp_path / "m.onnx")
    onnx.checker.check_model(str(written.path), full_check=True)
    nodes = interface_nodes(written.path)
    assert [node.attribute[0].s.decode() for node in nodes] == markers == list(written.interfaces)
    assert [{p.key: p.value for p in n.metadata_props}["dni_fx.boundary"] for n in nodes] == markers
    assert {node.op_type for node in nodes} == {"interface"}
    assert written.nodes == len(onnx.load(written.path).graph.node)
    assert written.difference is not None
    assert written.difference <= TOLERANCE


def test_without_interfaces_the_graph_is_plain(tmp_path: Path) -> None:
    written = Onnx(keep_interfaces=False).write(program(mlp(), *batch("mlp", 2)), tmp_path / "m.onnx")
    proto = onnx.load(written.path)
    assert written.interfaces == ()
    assert [entry.domain for entry in proto.opset_import] == [""]
    assert not proto.functions
    assert [node.op_type for node in proto.graph.node] == ["Gemm", "Relu", "Gemm"]


def test_a_marker_on_the_input_and_one_marker_called_twice_stay(tmp_path: Path) -> None:
    mark = Marker("m")
    written = Onnx().write(program(nn.Sequential(mark, nn.ReLU(), mark), torch.randn(2, 3)), tmp_path / "m")
    assert written.interfaces == ("m", "m")
    assert [node.op_type for node in onnx.load(written.path).graph.node] == ["interface", "Relu", "interface"]


def test_inputs_and_outputs_have_the_names_that_the_model_gives_them(tmp_path: Path) -> None:
    written = Onnx().write(program(Named(), torch.randn(2, 4), 1.5, None), tmp_path / "m.onnx")
    graph = onnx.load(written.path).graph
    assert [value.name for value in graph.input] == ["x"]
    # An input keeps its name, so the output of that name moves aside; a weight is stored under its own.
    names = ["logits", "hidden_0", "hidden_1", "linear.weight", "again", "x_out"]
    assert [value.name for value in graph.output] == names


def test_outputs_without_names_are_numbered_and_a_single_one_is_not(tmp_path: Path) -> None:
    pair = Onnx().write(program(TwoByTwo(), *batch("two", 2)), tmp_path / "pair.onnx")
    one = Onnx().write(program(mlp(), *batch("mlp", 2)), tmp_path / "one.onnx")
    assert [value.name for value in onnx.load(pair.path).graph.input] == ["x", "y"]
    assert [value.name for value in onnx.load(pair.path).graph.output] == ["output_0", "output_1"]
    assert [value.name for value in onnx.load(one.path).graph.output] == ["output"]


def test_keyword_and_unused_inputs_stay_inputs(tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor, *, y: Tensor, unused: Tensor) -> Tensor:
            return x - y

    x = torch.randn(2, 3)
    sizes = {name: {0: Dim.DYNAMIC} for name in ("x", "y", "unused")}
    given = torch.export.export(Model(), (x,), {"y": 2 * x, "unused": x}, dynamic_shapes=sizes)
    written = Onnx().write(given, tmp_path / "m.onnx")
    assert run(written.path, (x, 2 * x, x))[0].equal(-x)


def test_a_static_program_gives_a_static_file_and_the_report_says_so(tmp_path: Path) -> None:
    given = torch.export.export(mlp().eval(), (torch.randn(2, 4),))
    written = Onnx().write(given, tmp_path / "m.onnx")
    assert not written.dynamic
    assert "fixed to the example's" in str(written)
    with pytest.raises(Exception, match="Got invalid dimensions"):
        run(written.path, (torch.randn(3, 4),))


@pytest.mark.parametrize("opset", [18, 21])
def test_the_file_has_the_opset_asked_for(opset: int, tmp_path: Path) -> None:
    written = Onnx(opset=opset).write(program(mlp(nn.GELU()), *batch("mlp", 2)), tmp_path / "m.onnx")
    assert written.opset == opset
    imports = {entry.domain: entry.version for entry in onnx.load(written.path).opset_import}
    assert imports == {"": opset, "dni_fx": 1}
    assert onnx.load(written.path).producer_name == "dni_fx"


@pytest.mark.parametrize("opset", [-1, 2, 99])
def test_an_opset_out_of_reach_is_refused_with_the_range_that_is_not(opset: int, tmp_path: Path) -> None:
    given = program(mlp(), *batch("mlp", 2))
    with pytest.raises(ExportError, match=f"opset {opset}: .*can be written in ") as caught:
        Onnx(opset=opset).write(given, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    ends = re.search(r"can be written in (\d+) to (\d+)", str(caught.value))
    assert ends
    for end in map(int, ends.groups()):
        assert Onnx(opset=end, check=False).write(given, tmp_path / "m.onnx").opset == end


def test_a_program_that_writes_to_its_state_is_refused_and_every_buffer_listed(tmp_path: Path) -> None:
    given = program(mlp(nn.BatchNorm1d(4)), *batch("mlp", 3), training=True)
    before = given.state_dict["5.running_mean"].clone()
    with pytest.raises(ExportError, match=r"buffer '5.running_mean'(.|\n)*buffer '5.num_batches_tracked'"):
        Onnx().write(given, tmp_path / "m.onnx")
    assert given.state_dict["5.running_mean"].equal(before)
    assert not list(tmp_path.iterdir())


def test_a_program_that_writes_to_its_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="writes to its input 'input'"):
        Onnx().write(program(nn.ReLU(inplace=True), torch.randn(2, 3)), tmp_path / "m.onnx")


def test_a_constant_output_is_told_beside_the_graph(tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"count": 3, "y": x + 1, "none": None, "kind": "a"}

    written = Onnx().write(program(Model(), torch.randn(2, 3)), tmp_path / "m.onnx")
    model = onnx.load(written.path)
    assert [value.name for value in model.graph.output] == ["y"]
    assert {each.key: each.value for each in model.metadata_props} == {
        "dni_fx.constants": '{"count": 3, "kind": "a"}'
    }


def test_an_operator_without_translation_is_named(tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(x).real

    with pytest.raises(ExportError, match=r"cannot translate.*aten.linalg_eig"):
        Onnx().write(program(Model(), torch.randn(2, 3, 3)), tmp_path / "m.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnx-ir", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    with pytest.raises(
        ExportError, match=rf'cannot write ONNX: {package} not .*pip install "dni-fx\[onnx\]"'
    ):
        Onnx().write(program(mlp(), *batch("mlp", 2)), tmp_path / "m.onnx")


def test_weights_over_the_limit_go_to_a_file_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_WEIGHTS_INSIDE", 0)
    model = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 4)).eval()
    written = Onnx().write(program(model, *batch("mlp", 2)), tmp_path / "m.onnx")
    assert written.files == (tmp_path / "m.onnx", tmp_path / "m.onnx.data")
    assert sorted(tmp_path.iterdir()) == sorted(written.files)
    x = torch.randn(5, 4)
    torch.testing.assert_close(run(written.path, (x,))[0], model(x), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize("there", [True, False])
def test_a_move_that_fails_puts_back_what_was_there(
    limit: int, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_WEIGHTS_INSIDE", limit)
    path, data = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    before = {path: b"model", data: b"weights"} if there else {}
    for file, content in before.items():
        file.write_bytes(content)
    replace = Path.replace

    def fail_at_the_model(self: Path, target: Path) -> Path:
        if target == path:
            raise PermissionError(13, "Permission denied", str(path))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_at_the_model)
    with pytest.raises(FileError, match=r"cannot write .*m.onnx: .*Permission denied"):
        Onnx().write(program(nn.Linear(4, 64), torch.randn(2, 4)), path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_it_is_quiet_and_leaves_warnings_and_loggers_as_they_were(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    filters, level = list(warnings.filters), logging.getLogger("torch.onnx").level
    Onnx(opset=15).write(program(mlp(nn.GELU()), *batch("mlp", 2)), tmp_path / "m.onnx")
    assert list(warnings.filters) == filters
    assert logging.getLogger("torch.onnx").level == level
    assert capfd.readouterr() == ("", "")
