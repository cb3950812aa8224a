from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from dni_fx.archive import read, write
from dni_fx.errors import ExportError
from dni_fx.exported import STAGE, export_graph
from passes.anchors import ANCHOR, set_anchors
from tests.archives import MODELS, Cut, captured, program, rows, run, same, shell


def test_anchors_and_stages_survive_the_file(tmp_path: Path) -> None:
    model = Cut().double()
    graph = captured(model)
    stages = {node.name: i for i, node in enumerate(graph.nodes)}
    exported = export_graph(shell(model), graph, rows(), stage_of=stages).program
    write(tmp_path / "m.pt2", {"eval": exported}, {}, {})
    loaded = read(tmp_path / "m.pt2").programs["eval"]
    found = {
        node.meta["custom"][ANCHOR]: node.meta["custom"][STAGE] for node in loaded.graph.nodes if _is_op(node)
    }
    assert found == {node.meta["anchor"]: stages[node.name] for node in graph.nodes if "anchor" in node.meta}
    assert {"a", "dni.a", ":add", "b"} == set(found)


def _is_op(node: fx.Node) -> bool:
    return node.op == "call_function"


def test_export_that_cannot_be_says_why(tmp_path: Path) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    item = graph.call_function(bool, (x,))
    graph.output((graph.call_function(torch.mul, (x, item)),))
    set_anchors(graph)
    with pytest.raises(ExportError, match="cannot export the graph"):
        export_graph(nn.Module(), graph, (torch.ones(2),), stage_of={node.name: 0 for node in graph.nodes})


@pytest.mark.parametrize("name", MODELS)
def test_export_moves_no_state_and_draws_no_random_number(name: str) -> None:
    make, inputs = MODELS[name]
    model, leaves = make().double().train(), inputs()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    program(model, leaves)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_the_program_holds_the_model_s_own_tensors() -> None:
    model = Cut().double()
    exported = program(model, rows())
    assert all(exported.state_dict[name] is value for name, value in model.named_parameters())
    assert exported.constants["table"] is model.table


def test_inputs_keep_their_names() -> None:
    names = program(Cut().double(), rows()).graph_signature.user_inputs
    assert names == ("x",)


@pytest.mark.parametrize("name", ["mlp", "conv-norm-dropout", "tied"])
def test_a_graph_that_was_read_has_the_anchors_of_the_first_capture(tmp_path: Path, name: str) -> None:
    make, inputs = MODELS[name]
    model = make().double()
    write(tmp_path / "m.pt2", {"eval": program(model.eval(), inputs())}, {}, {})
    again = read(tmp_path / "m.pt2").programs["eval"].module().graph
    set_anchors(again)
    found = [node.meta["anchor"] for node in again.nodes if "anchor" in node.meta]
    first = [node.meta["anchor"] for node in captured(model).nodes if "anchor" in node.meta]
    assert len(set(found)) == len(found)
    assert [anchor for anchor in found if anchor in first] == first


def test_a_batch_size_that_the_graph_fixes_is_reported_and_kept() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(4, 3)

    model, leaves = Fixed(), (torch.randn(2, 6),)
    graph = captured(model)
    exported = export_graph(model, graph, leaves, stage_of={node.name: 0 for node in graph.nodes})
    assert "batch" in exported.fixed
    assert same(run(exported.program.module(), leaves), run(model, leaves))
    assert exported.program.example_inputs[0] == leaves


def test_a_program_without_a_batch_can_be_asked_for() -> None:
    model = nn.Linear(4, 4)
    graph = captured(model)
    stages = {node.name: 0 for node in graph.nodes}
    exported = export_graph(model, graph, (torch.randn(2, 4),), stage_of=stages, dynamic_batch=False)
    assert exported.fixed
    assert not exported.program.range_constraints


def test_constants_of_the_code_go_along() -> None:
    tree, graph = nn.Module(), fx.Graph()
    tree.__dict__["scale"] = torch.tensor([2.0, 3.0])  # where a capture puts what it found in the code
    graph.output((graph.call_function(torch.mul, (graph.placeholder("x"), graph.get_attr("scale"))),))
    set_anchors(graph)
    stages = {node.name: 0 for node in graph.nodes}
    exported = export_graph(tree, graph, (torch.randn(3, 2),), stage_of=stages).program
    x = torch.randn(3, 2)
    assert same(run(exported.module(), (x,)), (x * torch.tensor([2.0, 3.0]),))


def test_module_paths_go_along() -> None:
    paths = {}
    for node in program(nn.Sequential(nn.Sequential(nn.Linear(4, 4))).double(), rows()).graph.nodes:
        if node.op == "call_function":
            paths[node.meta["custom"][ANCHOR]] = [path for path, _ in node.meta["nn_module_stack"].values()]
    assert paths == {"0.0": ["", "0", "0.0"]}
