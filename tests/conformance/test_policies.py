"""What every registered policy must do. A new one is tested by being registered."""

import contextlib
from collections import defaultdict

import pytest
import torch
from torch import fx, nn

from dni_fx.errors import PlanError
from dni_fx.policies import POLICIES
from dni_fx.policies.at import At
from dni_fx.policies.every import Every
from dni_fx.policies.memory import Memory
from passes import GraphError, Pipeline, Plan, parse
from passes.anchors import set_anchors
from passes.annotate_shapes import annotate
from passes.costs import memory, parameters
from passes.dataflow import carrying, computed, dataflow
from passes.mark_boundaries import MarkBoundaries
from passes.split_stages import split_stages

WIDTH = 8


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Residual(Chain):
    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        return x


class ResidualInPlace(Chain):
    def forward(self, x):
        for layer in self.layers:
            out = layer(x)
            out += x
            x = out.relu_()
        return x


class SkipsTwoStages(Chain):
    def forward(self, x):
        first = torch.relu(self.layers[0](x))
        return self.layers[3](self.layers[2](self.layers[1](first))) + first


class JoinsLate(Chain):
    """A second input comes in when half of the first one's way is done."""

    def forward(self, x, y):
        return self.layers[3](self.layers[1](self.layers[0](x)) + self.layers[2](y))


class Encodes(nn.Module):
    """An encoder whose last value every layer of the decoder reads."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.decoder = nn.ModuleList(nn.Bilinear(WIDTH, WIDTH, WIDTH) for _ in range(3))

    def forward(self, x, y):
        for layer in self.encoder:
            x = torch.tanh(layer(x))
        for layer in self.decoder:
            y = layer(y, x) + y
        return y


class Chunks(Chain):
    def forward(self, x):
        for layer in self.layers:
            left, right = layer(x).chunk(2, dim=-1)
            x = torch.cat([right, left], dim=-1)
        return x


class NormalizedWeight(nn.Module):
    """A weight made in the graph, which two layers share."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH, WIDTH))
        self.between = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        weight = self.weight / self.weight.norm()
        return self.between(x @ weight) @ weight


class DroppedWeights(Chain):
    """Weights made in the graph from random numbers, which two layers each share."""

    def forward(self, x):
        first, second = (torch.nn.functional.dropout(self.layers[at].weight) * 2 for at in range(2))
        x = torch.tanh(torch.tanh(x @ first) @ first)
        return self.layers[3](torch.tanh(self.layers[2](x) @ second) @ second)


class Heads(Chain):
    """Two outputs, one of them early, and random numbers."""

    def forward(self, x):
        x = torch.nn.functional.dropout(self.layers[0](x))
        return self.layers[1](x), self.layers[3](torch.nn.functional.dropout(self.layers[2](x)))


MODELS = [
    Chain, Residual, ResidualInPlace, SkipsTwoStages, JoinsLate, Encodes, Chunks, NormalizedWeight,
    DroppedWeights, Heads,
]  # fmt: skip


def captured(model):
    gm = fx.symbolic_trace(model())
    set_anchors(gm.graph)
    output = next(iter(reversed(gm.graph.nodes)))
    returned = output.args[0]
    output.args = (returned if isinstance(returned, tuple) else (returned,),)
    inputs = [node for node in gm.graph.nodes if node.op == "placeholder"]
    annotate(gm, [torch.zeros(4, WIDTH) for _ in inputs])
    return gm


def first_that_cuts(cls, names, flow):
    """The first of the names after which the policy can cut."""
    for name in names:
        try:
            cls((name,)).plan(flow)
        except PlanError:
            continue
        return (name,)
    raise AssertionError


def least_limit(flow):
    """The least memory into which two stages fit."""
    total = sum(4 * size for size in parameters(flow).values()) + sum(memory(flow).values())
    for limit in range(total // 2, total, max(1, total // 200)):
        try:
            if len(Memory(str(limit)).plan(flow)) == 2:
                return str(limit)
        except PlanError:
            continue
    raise AssertionError


# What cuts in time cuts inside of one stage, and no model here has a state: see dni_fx/test_time.py.
STAGED = [name for name in POLICIES if name != "time"]


def anchors(flow):
    return [flow.nodes[name]["anchor"] for name in carrying(flow)]


# What a policy is told where its defaults do not say all: options for two stages, and for one.
TWO = {
    "at": lambda flow: {
        "after": first_that_cuts(At, [flow.nodes[n]["anchor"] for n in carrying(flow)], flow)
    },
    "every": lambda flow: {"module": first_that_cuts(Every, flow.graph["classes"], flow)},
    "memory": lambda flow: {"limit": least_limit(flow)},
}
ONE = {"at": {}, "every": {}, "memory": {}}


def choose(name, gm, **constraints):
    """The policy with its defaults, and what it cannot do without."""
    return POLICIES.get(name)(**TWO.get(name, lambda _: {})(dataflow(gm)), **constraints)


@pytest.fixture(params=MODELS)
def gm(request):
    return captured(request.param)


def crossing(flow, plan):
    """The carrying values that cross and a carrying value that reads each in a later stage."""
    held = set(carrying(flow))
    stage = {name: plan.stage_of[flow.nodes[name]["anchor"]] for name in computed(flow)}
    return {
        name: reader
        for name in carrying(flow)
        for reader in flow.succ[name]
        if reader in held and stage[reader] > stage[name]
    }


@pytest.mark.parametrize("name", STAGED)
def test_a_plan_can_be_carried_out(name, gm):
    plan = choose(name, gm).plan(dataflow(gm))
    assert list(plan.problems(gm.graph)) == []
    assert len(plan) == 2


@pytest.mark.parametrize("name", STAGED)
def test_what_a_stage_reads_is_there_when_it_runs(name, gm):
    plan = choose(name, gm).plan(dataflow(gm))
    split = split_stages(Pipeline((MarkBoundaries(plan),)).run(gm), plan)
    there = set(split.inputs)
    for part in split.parts:
        assert there.issuperset(part.reads)
        there.update(part.writes)


@pytest.mark.parametrize("name", STAGED)
def test_the_same_graph_gets_the_same_plan(name, gm):
    assert choose(name, gm).plan(dataflow(gm)) == choose(name, gm).plan(dataflow(gm))


@pytest.mark.parametrize("constraints", [{}, {"avoid": ("*.3",), "tied": True}], ids=["free", "constrained"])
@pytest.mark.parametrize("name", list(POLICIES))
def test_planning_leaves_the_dataflow_alone(name, gm, constraints):
    flow = dataflow(gm)
    before = {each: dict(flow.nodes[each]) for each in flow}, list(flow.edges(data=True))
    with contextlib.suppress(GraphError):
        choose(name, gm, **constraints).plan(flow)
    assert ({each: dict(flow.nodes[each]) for each in flow}, list(flow.edges(data=True))) == before


@pytest.mark.parametrize("name", STAGED)
def test_a_plan_remembers_who_made_it_and_survives_json(name, gm):
    choice = choose(name, gm)
    plan = choice.plan(dataflow(gm))
    assert parse(plan.policy, POLICIES) == choice
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("name", STAGED)
def test_defaults_and_one_stage_are_plans_of_any_graph(name, gm):
    plan = POLICIES.get(name)(**ONE.get(name, {"stages": 1}))
    assert set(plan.plan(dataflow(gm)).stage_of.values()) == {0}


def constraints_against(flow, plan):
    """Constraints that each rule out the plan."""
    for value, reader in crossing(flow, plan).items():
        one, other = (flow.nodes[name]["anchor"] for name in (value, reader))
        yield {"avoid": (one,)}
        yield {"together": (f"{one}&{other}",)}


def planned(choice, flow):
    """The plan, and why there is none."""
    try:
        return choice.plan(flow), ""
    except PlanError as error:
        return None, str(error)


@pytest.mark.parametrize("name", STAGED)
def test_a_plan_under_constraints_keeps_them_or_is_refused_in_the_name_of_the_policy(name, gm):
    flow = dataflow(gm)
    for constraints in constraints_against(flow, choose(name, gm).plan(flow)):
        choice = choose(name, gm, **constraints)
        assert parse(str(choice), POLICIES) == choice
        plan, refused = planned(choice, flow)
        if plan is None:
            assert str(choice) in refused
            continue
        assert list(plan.problems(gm.graph)) == []
        sent = {flow.nodes[value]["anchor"] for value in crossing(flow, plan)}
        assert sent.isdisjoint(constraints.get("avoid", ()))
        for item in constraints.get("together", ()):
            assert len({plan.stage_of[anchor] for anchor in item.split("&")}) == 1


@pytest.mark.parametrize("name", STAGED)
def test_a_tied_plan_has_each_parameter_in_one_stage_and_differs_only_where_one_is_shared(name, gm):
    flow = dataflow(gm)
    readers = defaultdict(list)
    for each in computed(flow):
        for parameter in flow.nodes[each]["parameters"]:
            readers[parameter].append(flow.nodes[each]["anchor"])
    plan, _ = planned(choose(name, gm, tied=True), flow)
    free, _ = planned(choose(name, gm), flow)
    if all(len(anchors) == 1 for anchors in readers.values()) and not free.copies:
        assert plan.stage_of == free.stage_of
    if plan is not None:
        for anchors in readers.values():
            places = {
                stage for each in anchors for stage in (plan.stage_of[each], *plan.copies.get(each, ()))
            }
            assert len(places) == 1
