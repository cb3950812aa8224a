"""What every registered policy must do. A new one is tested by being registered."""

import pytest
import torch
from torch import fx, nn

from dni_fx.policies import POLICIES
from dni_fx.policies.at import At
from passes import Plan, parse
from passes.anchors import set_anchors
from passes.annotate_shapes import annotate
from passes.dataflow import carrying, dataflow

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


class Heads(Chain):
    """Two outputs, one of them early, and random numbers."""

    def forward(self, x):
        x = torch.nn.functional.dropout(self.layers[0](x))
        return self.layers[1](x), self.layers[3](torch.nn.functional.dropout(self.layers[2](x)))


MODELS = [
    Chain, Residual, ResidualInPlace, SkipsTwoStages, JoinsLate, Encodes, Chunks, NormalizedWeight, Heads,
]  # fmt: skip


def captured(model):
    gm = fx.symbolic_trace(model())
    set_anchors(gm.graph)
    inputs = [node for node in gm.graph.nodes if node.op == "placeholder"]
    annotate(gm, [torch.zeros(4, WIDTH) for _ in inputs])
    return gm


def choose(name, gm):
    """The policy with its defaults, and names where it cannot do without."""
    cls = POLICIES.get(name)
    return At((carrying(dataflow(gm))[0],)) if cls is At else cls()


@pytest.fixture(params=MODELS)
def gm(request):
    return captured(request.param)


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_plan_can_be_carried_out(name, gm):
    plan = choose(name, gm).plan(dataflow(gm))
    assert list(plan.problems(gm.graph)) == []
    assert len(plan) == 2


@pytest.mark.parametrize("name", list(POLICIES))
def test_the_same_graph_gets_the_same_plan(name, gm):
    assert choose(name, gm).plan(dataflow(gm)) == choose(name, gm).plan(dataflow(gm))


@pytest.mark.parametrize("name", list(POLICIES))
def test_planning_leaves_the_dataflow_alone(name, gm):
    flow = dataflow(gm)
    before = {each: dict(flow.nodes[each]) for each in flow}, list(flow.edges(data=True))
    choose(name, gm).plan(flow)
    assert ({each: dict(flow.nodes[each]) for each in flow}, list(flow.edges(data=True))) == before


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_plan_remembers_who_made_it_and_survives_json(name, gm):
    choice = choose(name, gm)
    plan = choice.plan(dataflow(gm))
    assert parse(plan.policy, POLICIES) == choice
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("name", list(POLICIES))
def test_defaults_and_one_stage_are_plans_of_any_graph(name, gm):
    cls = POLICIES.get(name)
    plan = cls() if cls is At else cls(stages=1)
    assert set(plan.plan(dataflow(gm)).stage_of.values()) == {0}
