import torch
from torch import fx, nn

import dni_fx
from passes.anchors import ANCHOR, Anchor, anchor_of, identifier, module_of, set_anchors
from tests.zoo import made


def anchors_of(name, frontend="symbolic"):
    model, inputs = made(name)
    program = dni_fx.capture(model, inputs, frontend=frontend)
    ((_, capture),) = program.captures
    return [anchor_of(n) for n in capture.graph.nodes if n.op not in {"placeholder", "get_attr", "output"}]


def test_a_module_call_is_its_path_and_later_calls_are_numbered():
    found = anchors_of("in-place-relu")
    assert found == [part for i in range(5) for part in (f"layers.{i}", "act" if i == 0 else f"act@{i}")]


def test_operations_are_numbered_by_kind_within_their_module_call():
    assert anchors_of("residual")[:6] == ["layers.0", ":tanh", ":add", "layers.1", ":tanh.1", ":add.1"]


def test_exported_operations_are_placed_in_the_module_call_that_made_them():
    found = anchors_of("chain", "export")
    assert found[:4] == ["layers.0:linear", ":tanh", "layers.1:linear", ":tanh.1"]
    second = [at.replace("inner:", "inner@1:") for at in anchors_of_outer("export")[:5]]
    assert anchors_of_outer("export")[5:10] == second


class Inner(nn.Module):
    def forward(self, x):
        return torch.tanh(x) + x.tanh() + torch.tanh(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return self.inner(self.inner(x)) + x


def anchors_of_outer(frontend):
    program = dni_fx.capture(Outer(), (torch.zeros(2, 3),), frontend=frontend)
    ((_, capture),) = program.captures
    return [anchor_of(n) for n in capture.graph.nodes if "anchor" in n.meta]


def test_operations_inside_a_second_call_carry_its_number():
    found = anchors_of_outer("symbolic")
    first = ["inner:tanh", "inner:tanh.1", "inner:add", "inner:tanh.2", "inner:add.1"]
    assert found == [*first, *(at.replace("inner", "inner@1") for at in first), ":add"]


def test_what_a_file_carries_comes_first_and_new_values_get_other_names():
    graph = fx.Graph()
    x = graph.placeholder("x")
    nodes = [graph.call_function(torch.tanh, (x,)) for _ in range(4)]
    nodes[1].meta["custom"] = {ANCHOR: ":tanh"}
    nodes[2].meta["custom"] = {ANCHOR: "kept"}
    nodes[3].meta["custom"] = {ANCHOR: "kept"}  # the last of several made the value
    graph.output(nodes[3])
    set_anchors(graph)
    assert [anchor_of(node) for node in nodes] == [":tanh.1", ":tanh", "kept~", "kept"]


def test_module_and_identifier():
    assert module_of(Anchor("a.b")) == module_of(Anchor("a.b@3:add.1")) == "a.b"
    assert module_of(Anchor(":add")) == ""
    assert identifier(Anchor(":add.1")) == "add_1"
    assert identifier(Anchor("a.0@2:add.1")) == "a_0_at2__add_1"
