import operator
from dataclasses import replace

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from torch import fx, nn

from passes.anchors import set_anchors
from passes.annotate_shapes import annotate
from passes.dataflow import carrying, computed, dataflow, precedence
from passes.values import value_of
from tests.flows import Sketch, constraints, graphs


def traced(model, *examples):
    gm = fx.symbolic_trace(model)
    set_anchors(gm.graph)
    annotate(gm, examples)
    return dataflow(gm)


def groups(flow):
    """What must stay together, as sets of names."""
    numbers = {flow.nodes[name]["together"] for name in flow} - {None}
    return [{name for name in flow if flow.nodes[name]["together"] == number} for number in sorted(numbers)]


@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_nodes_and_edges_are_those_of_the_graph_and_graph_order_is_kept(gm):
    flow = dataflow(gm)
    assert list(flow) == [node.name for node in gm.graph.nodes]
    read = {(source.name, node.name) for node in gm.graph.nodes for source in node.all_input_nodes}
    assert read <= set(flow.edges)
    place = {name: at for at, name in enumerate(flow)}
    assert all(place[source] < place[reader] for source, reader in flow.edges)
    assert all(flow.nodes[source]["writes"] for source, _ in set(flow.edges) - read)


@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_a_gradient_runs_through_a_value_from_a_weight_and_an_input_to_the_output(gm):
    flow = dataflow(gm)
    names = set(carrying(flow))
    for name in names:
        above = nx.ancestors(flow, name)
        assert "weight" in above
        assert {"x", "y"} & above
        assert names.union(["output"]).intersection(flow.succ[name])


@settings(deadline=None, max_examples=100)
@given(gm=graphs())
def test_units_are_what_the_constraints_hold_together(gm):
    flow = dataflow(gm)
    units = precedence(flow)
    found = {frozenset(units.nodes[unit]["members"]) for unit in units}
    assert found == set(map(frozenset, nx.strongly_connected_components(constraints(flow))))
    assert nx.is_directed_acyclic_graph(units)


def test_a_frozen_part_a_mask_and_what_is_detached_carry_no_gradient():
    sketch = Sketch()
    (x,) = sketch.inputs
    frozen = sketch.add(x, sketch.frozen)
    mask = sketch.add(x, dtype=torch.bool)
    weight = sketch.add(sketch.weight)
    hidden = sketch.add(frozen, weight, mask)
    unread = sketch.add(hidden, sketch.weight)
    detached = sketch.add(sketch.add(hidden, sketch.weight), requires_grad=False)
    logits = sketch.add(hidden, sketch.weight)
    flow = dataflow(sketch.done(logits, detached))
    assert carrying(flow) == [hidden.name, logits.name]
    assert unread.name in computed(flow)


def test_what_unpacks_a_tuple_stays_with_it():
    class Unpacks(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 4)

        def forward(self, x):
            y, (h, _) = self.lstm(x)
            return y + h

    assert groups(traced(Unpacks(), torch.zeros(2, 3, 4))) == [
        {"lstm", "getitem", "getitem_1", "getitem_2", "getitem_3"}
    ]


class Block(nn.Module):
    """A residual block whose operations work in place, as those of ResNet do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.second(self.relu(self.first(x)))
        out += x
        return self.relu(out)


def test_the_usual_in_place_operations_hold_nothing_together():
    assert groups(traced(nn.Sequential(Block(), Block()), torch.zeros(2, 4))) == []


class WritesThenReads(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        hidden = self.first(x)
        view = hidden.view(-1)
        earlier = self.second(hidden)
        view.mul_(2)
        return hidden + earlier


def test_a_read_of_memory_after_it_is_written_stays_with_the_writer():
    flow = traced(WritesThenReads(), torch.zeros(2, 4))
    assert groups(flow) == [{"first", "view", "mul_", "add"}]
    assert "add" in flow.succ["mul_"]


def test_a_read_before_a_write_may_not_come_later():
    flow = traced(WritesThenReads(), torch.zeros(2, 4))
    assert "second" in flow.nodes["mul_"]["follows"]
    units = precedence(flow)
    assert nx.number_of_nodes(units) == 1  # second is read by add, so it is between the two


def test_a_gradient_runs_through_what_is_written_into_a_constant():
    sketch = Sketch(("x", "out"))
    x, out = sketch.inputs
    made = sketch.add(x, sketch.weight)
    stored = sketch.add(out, 0, made, target=operator.setitem, shape=None, dtype=None, mutates={"out"})
    stored.meta["value"] = replace(value_of(stored), requires_grad=False)  # it returns None
    read = sketch.add(out, requires_grad=True)
    flow = dataflow(sketch.done(read))
    assert carrying(flow) == [made.name, stored.name, read.name]
    assert groups(flow) == [{stored.name, read.name}]


def test_an_output_that_another_node_writes_to_stays_with_it():
    class Returns(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            hidden = self.layer(x)
            return hidden, hidden.relu_() * 2

    assert groups(traced(Returns(), torch.zeros(2, 4))) == [{"layer", "relu_"}]


def test_random_numbers_and_shared_buffers_keep_their_order():
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.norm, self.relu = nn.Dropout(), nn.BatchNorm1d(4), nn.ReLU(inplace=True)

        def forward(self, x, y):
            return self.drop(self.relu(self.norm(x))) + self.drop(self.relu(self.norm(y)))

    flow = traced(Draws(), torch.zeros(2, 4), torch.zeros(2, 4))
    assert flow.nodes["drop_1"]["follows"] == ("drop",)
    assert flow.nodes["norm_1"]["follows"] == ("norm",)
    assert flow.nodes["relu_1"]["follows"] == ()
    assert [name for name in flow if flow.nodes[name]["random"]] == ["drop", "drop_1"]


def test_a_weight_that_is_drawn_stays_with_all_its_readers():
    sketch = Sketch()
    weight = sketch.add(sketch.weight, random=True)
    hidden = sketch.add(sketch.inputs[0], weight)
    between = sketch.add(hidden, sketch.weight)
    last = sketch.add(between, weight)
    flow = dataflow(sketch.done(last))
    assert groups(flow) == [{weight.name, hidden.name, last.name}]


def test_nodes_name_the_parameters_that_they_read():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.layer(x) * self.scale

    flow = traced(Reads(), torch.zeros(2, 4))
    read = {name: flow.nodes[name]["parameters"] for name in computed(flow)}
    assert read == {"layer": ("layer.weight", "layer.bias"), "mul": ("scale",)}


def test_edges_weigh_what_flows_and_nodes_what_they_cost():
    flow = traced(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), torch.zeros(2, 4))
    assert flow.edges["_0", "_1"]["bytes"] == 2 * 8 * 4
    assert (flow.nodes["_0"]["flops"], flow.nodes["_0"]["module"]) == (2 * 2 * 4 * 8, "0")


@pytest.mark.parametrize("kind", [operator.getitem, getattr])
def test_taking_a_part_of_a_tensor_is_no_unpacking(kind):
    sketch = Sketch()
    hidden = sketch.add(sketch.inputs[0], sketch.weight)
    part = sketch.add(hidden, "T" if kind is getattr else 0, target=kind)
    assert groups(dataflow(sketch.done(part))) == []
