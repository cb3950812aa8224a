"""A plan's table says what the plan does."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx import verbs
from dni_fx.crossing import crossings_of
from dni_fx.sheet import described, sheet_of
from dni_fx.table import shorten, show_table
from passes import Anchor, Pipeline, Plan, boundaries
from passes.crossings import crossings, plain_crossings
from passes.dataflow import computed, dataflow
from passes.mark_boundaries import MarkBoundaries
from passes.measure import measure
from tests.zoo import made

NETS = ("chain", "residual", "tied-weight")


class Skips(nn.Module):
    """Thirteen values cross, one with a name that looks like another, and a mask without a gradient."""

    def __init__(self):
        super().__init__()
        self.a = nn.ModuleDict({"b": nn.Linear(4, 4)})
        self.a_b = nn.Linear(4, 4)
        self.layers = nn.ModuleList(nn.Linear(4, width) for width in range(1, 13))
        self.last = nn.Linear(4 + sum(range(1, 13)), 2)

    def forward(self, x):
        first = self.a["b"](x)
        mask = x > 0
        wide = [layer(self.a_b(first)) for layer in self.layers]
        return self.last(torch.cat([*wide, first * mask], 1))


def planned(model, x, *bounds):
    """A graph and a plan whose stages end at these shares of its nodes."""
    program = dni_fx.capture(model, (x,) if isinstance(x, torch.Tensor) else x)
    gm = verbs.training_graph(program)
    anchors = [node.meta["anchor"] for node in gm.graph.nodes if "anchor" in node.meta]
    ends = [round(bound * len(anchors)) for bound in bounds]
    return gm, Plan({anchor: sum(at >= end for end in ends) for at, anchor in enumerate(anchors)})


def skips():
    gm, plan = planned(Skips(), torch.rand(3, 4))
    stages = {anchor: int(anchor.startswith(("last", ":cat", ":mul"))) for anchor in plan.stage_of}
    return gm, Plan(stages)


@pytest.mark.parametrize("name", NETS)
def test_what_crosses_are_the_boundaries_that_are_marked(name):
    gm, plan = planned(*made(name), 0.4, 0.7)
    marked = [spec for _, spec in boundaries(Pipeline((MarkBoundaries(plan),)).run(gm))]
    assert [spec for _, spec in crossings(gm, plan, dataflow(gm))] == marked
    listed = [each for row in sheet_of(gm, plan).stages for each in row.crossings]
    assert sorted(map(str, listed)) == sorted(str(each) for spec in marked for each in crossings_of(spec))


def test_names_that_look_alike_are_told_apart_as_the_boundaries_are():
    gm, plan = planned(Skips(), torch.rand(3, 4))
    plan = Plan({anchor: at for at, anchor in enumerate(plan.stage_of)})
    marked = [spec.name for _, spec in boundaries(Pipeline((MarkBoundaries(plan),)).run(gm))]
    assert [spec.name for _, spec in crossings(gm, plan, dataflow(gm))] == marked
    assert {"a_b", "a_b_1"} <= set(marked)


def test_a_value_without_a_gradient_crosses_plainly_unless_it_is_computed_anew():
    gm, plan = skips()
    flow = dataflow(gm)
    assert {str(node): size for node, size in plain_crossings(gm, plan, flow).items()} == {"gt": 12}
    anew = Plan(plan.stage_of, {Anchor(":gt"): (1,)})
    assert not plain_crossings(gm, anew, flow)
    assert "without: 1, 12 B" in str(sheet_of(gm, plan))


@pytest.mark.parametrize("name", NETS)
def test_the_stages_add_up_to_the_graph(name):
    model, x = made(name)
    gm, plan = planned(model, x, 0.4, 0.7)
    flow, sheet = dataflow(gm), sheet_of(gm, plan)
    facts = [flow.nodes[node] for node in computed(flow)]
    assert sum(row.nodes for row in sheet.stages) == len(facts)
    assert sum(sheet.costs) == sum(each["flops"] + each["backward_flops"] for each in facts)
    assert sum(row.saved for row in sheet.stages) == sum(each["saved"] for each in facts)
    assert sheet.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum(row.parameters for row in sheet.stages) >= sheet.parameters


def test_balance_lies_between_its_bound_and_the_number_of_stages():
    for bounds in ((0.1,), (0.5,), (0.2, 0.9), (0.3, 0.5, 0.8)):
        sheet = sheet_of(*planned(*made("chain"), *bounds))
        assert 1 <= sheet.bound <= sheet.balance <= len(sheet.stages)
        assert sheet.balance == max(sheet.costs) * len(sheet.costs) / sum(sheet.costs)


def test_stages_that_cost_nothing_are_balanced():
    gm, plan = planned(nn.Sequential(nn.PReLU(), nn.PReLU()), torch.rand(2, 3), 0.5)
    assert (sheet_of(gm, plan).balance, sheet_of(gm, plan).bound) == (1, 1)


def test_a_graph_that_was_measured_is_told_in_milliseconds():
    model, leaves = made("chain")
    gm, plan = planned(model, leaves, 0.5)
    assert " FLOPs " in str(sheet_of(gm, plan))
    measure(gm, leaves)
    sheet = sheet_of(gm, plan)
    assert sheet.is_measured
    assert " ms " in str(sheet)
    assert sheet.data()["cost"] == "seconds"
    assert sheet.costs == tuple(row.seconds for row in sheet.stages)


def test_a_described_plan_prints_its_table_and_is_the_same_plan():
    gm, plan = planned(*made("residual"), 0.5)
    before = str(gm.graph)
    told = described(gm, plan)
    assert str(gm.graph) == before
    assert told == plan
    assert str(told) == str(sheet_of(gm, plan)) != str(plan)
    assert str(pickle.loads(pickle.dumps(told))) == str(copy.deepcopy(told)) == str(told)


def test_what_a_sheet_holds_is_what_json_can_hold():
    data = sheet_of(*skips()).data()
    assert json.loads(json.dumps(data))["stages"][0]["crossings"][0]["consumers"] == [1]
    assert data["crossing_bytes"] == 3 * 4 * (sum(range(1, 13)) + 4)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_longer_than_the_page(width):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            long = nn.Sequential(*[nn.Linear(4, 4) for _ in range(12)])
            self.a_module_with_a_very_long_name = nn.ModuleDict({"and_another_below_it": long})

        def forward(self, x):
            return self.a_module_with_a_very_long_name["and_another_below_it"](x)

    gm, plan = planned(Deep(), torch.rand(3, 4), 0.3, 0.6)
    lines = sheet_of(gm, plan).table(width).splitlines()
    assert all(len(line) <= width for line in lines)
    starts = [line.split()[1] for line in lines if line.startswith(("    0", "    1", "    2"))]
    assert [start.rpartition(".")[2] for start in starts] == ["0", "4", "7"]


def test_of_many_values_that_leave_a_stage_the_largest_are_named_and_the_others_added_up():
    gm, plan = skips()
    table = str(sheet_of(gm, plan))
    named = [line.split()[1] for line in table.splitlines() if line.endswith("stage 1")]
    assert len(named) == 8
    assert {"layers.11", "layers.10"} <= set(named)
    assert "layers.0" not in named
    assert "and 5 more" in table


def test_a_shortened_path_fits_and_keeps_its_numbers():
    path = "transformer_encoder.layers.11.attention.output:layer_norm"
    for width in range(8, 80):
        short = shorten(path, width)
        assert len(short) == min(width, len(path))
        assert (".11." in short) == (width >= 22)


def test_a_table_has_no_color_and_no_space_behind_a_line():
    gm, plan = planned(*made("chain"), 0.5)
    lines = str(sheet_of(gm, plan)).splitlines()
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in "".join(lines)
    assert show_table((), ()) == ""
