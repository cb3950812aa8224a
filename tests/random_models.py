"""Random models, and random plans for them, each from one number."""

import random
from operator import getitem, iadd

import networkx as nx
import torch
from hypothesis import assume
from torch import fx, nn

import dni_fx
from passes import Pipeline, Plan, PreconditionError
from passes.anchors import anchor_of
from passes.dataflow import dataflow, precedence
from passes.mark_boundaries import MarkBoundaries

WIDTH = 4
_IN_PLACE = {torch.relu_, iadd}


def planned(model, inputs, seed):
    """A plan for the train graph, mostly of several stages.

    Half of the plans respect whatever must keep its order; the others only run no edge backwards. Of
    those, one that splits a tuple from what unpacks it, or memory from its readers, is no example.
    """
    draw = random.Random(seed)
    program = dni_fx.capture(model, inputs)
    gm = dni_fx.verbs.training_graph(program)
    found = (_orderly if draw.random() < 0.5 else _loose)(gm, draw)
    dense = {stage: i for i, stage in enumerate(sorted(set(found.values())))}
    plan = Plan({anchor: dense[stage] for anchor, stage in found.items()})
    try:
        Pipeline((MarkBoundaries(plan),)).run(gm)
    except PreconditionError as error:
        assume("must stay in one stage" not in str(error))
        raise
    return plan


def _orderly(gm, draw):
    flow = dataflow(gm)
    units, stages = precedence(flow), {}
    for unit in nx.lexicographical_topological_sort(units):
        above = max((stages[other] for other in units.pred[unit]), default=0)
        stages[unit] = above + (draw.random() < 0.3)
    return {flow.nodes[name]["anchor"]: stages[u] for u in units for name in units.nodes[u]["members"]}


def _loose(gm, draw):
    stages = {}
    for node in gm.graph.nodes:
        if "anchor" in node.meta:
            above = max((stages[source] for source in node.all_input_nodes if source in stages), default=0)
            stages[node] = above + (draw.random() < 0.3)
    return {anchor_of(node): stage for node, stage in stages.items()}


def made_up(seed):
    """A float64 model as an fx graph with one or two inputs and up to four outputs, and its inputs."""
    sketch = _Sketch(random.Random(seed))
    for _ in range(sketch.draw.randint(4, 14)):
        sketch.draw.choice(_KINDS)(sketch, sketch.pick())
    return sketch.done(), sketch.inputs()


class _Sketch:
    def __init__(self, draw):
        self.draw, self.root, self.graph = draw, nn.Module(), fx.Graph()
        self.count = draw.randint(1, 2)
        self.values = [self.graph.placeholder(f"x{i}") for i in range(self.count)]
        self.root.weight = nn.Parameter(torch.ones(WIDTH))
        self.made = 0
        self.module(nn.Linear(WIDTH, WIDTH), self.values[0])

    def pick(self):
        return self.draw.choice(self.values[-5:] if self.draw.random() < 0.7 else self.values)

    def module(self, module, value):
        self.made += 1
        self.root.add_module(f"m{self.made}", module)
        self.again(f"m{self.made}", value)

    def again(self, path, value):
        self.values.append(self.graph.call_module(path, (value,)))

    def call(self, function, *args):
        self.values.append(self.graph.call_function(function, args))
        return self.values[-1]

    def detach(self, value):
        self.values.append(self.graph.call_method("detach", (value,)))

    def halves(self, value):
        halves = self.graph.call_function(torch.chunk, (value, 2, 1))
        first, second = (self.graph.call_function(getitem, (halves, i)) for i in range(2))
        self.call(torch.cat, [second, first], 1)

    def weigh(self, value):
        self.call(torch.mul, value, self.graph.call_function(torch.tanh, (self.graph.get_attr("weight"),)))

    def inputs(self):
        draw = torch.Generator().manual_seed(0)
        return tuple(torch.randn(3, WIDTH, dtype=torch.float64, generator=draw) for _ in range(self.count))

    def done(self):
        computed = self.values[self.count :]
        unread = [value for value in computed if not value.users]
        early = self.draw.sample(computed, self.draw.choice([0, 0, 1]))
        self.graph.output(tuple(dict.fromkeys([*unread[-2:], computed[-1], *early])))
        self.graph.eliminate_dead_code(_is_kept)
        model = fx.GraphModule(self.root, self.graph)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.made)
            for parameter in model.parameters():
                nn.init.normal_(parameter.data)
        return model.double()


def _is_kept(node):
    return node.op in {"placeholder", "output"} or node.target in _IN_PLACE


_KINDS = [
    lambda sketch, value: sketch.call(torch.add, value, sketch.pick()),
    lambda sketch, value: sketch.call(iadd, sketch.call(torch.add, value, 1), sketch.pick()),
    lambda sketch, value: sketch.detach(value),
    lambda sketch, value: sketch.module(nn.Dropout(0.5), value),
    lambda sketch, value: sketch.module(nn.Linear(WIDTH, WIDTH).requires_grad_(False), value),
    lambda sketch, value: sketch.halves(value),
    lambda sketch, value: sketch.module(nn.Linear(WIDTH, WIDTH), value),
    lambda sketch, value: sketch.module(nn.Linear(WIDTH, WIDTH), value),
    lambda sketch, value: sketch.call(torch.mul, value, sketch.pick()),
    lambda sketch, value: sketch.module(nn.BatchNorm1d(WIDTH), value),
    lambda sketch, value: sketch.call(torch.relu_, sketch.call(torch.add, value, 1)),
    lambda sketch, value: sketch.call(torch.tanh, value),
    lambda sketch, value: sketch.again("m1", value),
    lambda sketch, value: sketch.weigh(value),
]
