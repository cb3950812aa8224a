"""What a translated model tells of the PyTorch model, and what the exporter alone would get wrong."""

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import dni_fx
from dni_fx.errors import ExportError
from dni_fx.exporters.onnx import Onnx
from dni_fx.marker import Marker
from dni_fx.restored import without_markers
from passes.anchors import ANCHOR, anchor_of, set_anchors


def program(model: nn.Module, *args: Tensor) -> ExportedProgram:
    shapes = tuple({0: Dim.DYNAMIC} for _ in args)
    return torch.export.export(model.eval(), args, dynamic_shapes=shapes)


def weights_in(path: Path) -> list[str]:
    return sorted(weight.name for weight in onnx.load(path).graph.initializer)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> onnx.GraphProto:
    layers = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)]
    cut = dni_fx.decouple(nn.Sequential(*layers), (torch.randn(2, 4),), plan="balanced:stages=3")
    return onnx.load(dni_fx.export(cut, tmp_path_factory.mktemp("whole") / "m.onnx").path).graph


def test_nodes_tell_their_stage_and_module_and_are_named_by_them(graph: onnx.GraphProto) -> None:
    found = [({each.key: each.value for each in node.metadata_props}, node.name) for node in graph.node]
    told = [(props["dni_fx.stage"], props["dni_fx.module"], name) for props, name in found]
    assert told == [
        ("0", "0.0", "0.0/Gemm"),
        ("0", "0.1", "0.1/Relu"),
        ("0", "0.1", "dni.0_1"),
        ("1", "1.0", "1.0/Gemm"),
        ("1", "1.1", "1.1/Relu"),
        ("1", "1.1", "dni.1_1"),
        ("2", "2.0", "2.0/Gemm"),
        ("2", "2.1", "2.1/Relu"),
    ]


def test_what_crosses_is_named_as_its_boundary_and_the_first_size_batch(graph: onnx.GraphProto) -> None:
    shown = [node for node in graph.node if node.domain == "dni_fx"]
    assert [node.output[0] for node in shown] == [node.attribute[0].s.decode() for node in shown]
    values = [
        *graph.input,
        *graph.output,
        *(each for each in graph.value_info if each.name in {"0_1", "1_1"}),
    ]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in values} == {"batch"}


def test_weights_of_equal_numbers_keep_their_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.LayerNorm(4), Marker("middle"), nn.LayerNorm(4))
    path = Onnx().write(program(model, torch.randn(2, 4)), tmp_path / "m.onnx").path
    assert {"0.weight", "0.bias", "2.weight", "2.bias"} <= set(weights_in(path))


def test_a_tied_weight_is_in_the_file_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(2000, 6), nn.Linear(6, 2000, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(self.embed(tokens))

    path = Onnx().write(program(Tied(), torch.ones(2, 3, dtype=torch.long)), tmp_path / "m.onnx").path
    assert len([name for name in weights_in(path) if name.endswith("weight")]) == 1
    assert path.stat().st_size < 1.2 * 4 * 2000 * 6


def test_attention_whose_result_is_viewed_as_contiguous_is_translated(tmp_path: Path) -> None:
    """The fused operator returns what is contiguous when transposed; the exporter makes of it what is not."""

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(1, 2, 7, 7))  # with which another operator is taken

        def forward(self, x: Tensor) -> Tensor:
            heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
            seen = F.scaled_dot_product_attention(
                heads, heads, heads, self.bias.expand(x.shape[0], -1, -1, -1)
            )
            return seen.transpose(1, 2).contiguous().reshape(x.shape[0], 7, -1)

    with torch.no_grad():
        given = program(Attend(), torch.randn(2, 7, 8))
    assert Onnx().write(given, tmp_path / "m.onnx").difference is not None


def test_a_check_behind_a_boundary_does_not_take_the_anchor_of_its_value() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mark = Marker("sum")

        def forward(self, x: Tensor) -> Tensor:
            return self.mark(x + 1).to(torch.float32)

    graph = program(Checked(), torch.randn(2, 3)).graph_module.graph
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    value = next(node for node in nodes if node.target is torch.ops.aten.add.Tensor)
    assert any(node.target is torch.ops.aten._assert_tensor_metadata.default for node in nodes)
    for node in nodes:
        node.meta["custom"] = {ANCHOR: "layer:add"}
    without_markers(graph, {"sum": "layer:add"})
    set_anchors(graph)
    assert anchor_of(value) == "layer:add"
    assert [anchor_of(node) for node in graph.nodes if "anchor" in node.meta].count("layer:add") == 1


def test_a_program_that_branches_on_data_is_refused_with_what_to_write_instead(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).relu()
            return self.b(x) if x.sum() < 1e6 else x

    cut = dni_fx.decouple(Branching(), (torch.ones(3, 4),), plan="balanced:stages=1")
    with pytest.raises(ExportError, match=r"branches on data.*torch\.where"):
        dni_fx.export(cut, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
