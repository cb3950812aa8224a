"""Random models, and random plans for them."""

from operator import getitem, iadd

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import fx, nn

import dni_fx
from passes import Pipeline, Plan, PreconditionError
from passes.anchors import anchor_of
from passes.mark_boundaries import MarkBoundaries

WIDTH = 4
_IN_PLACE = {torch.relu_, iadd}


def planned(model, inputs, steps):
    """A plan for the train graph, in which `steps` says where a value is in a later stage than what it reads.

    A plan that splits a tuple from what unpacks it, or memory from its readers, is no example.
    """
    program = dni_fx.capture(model, inputs, frontend="symbolic")
    (_, capture), *_ = program.captures
    latest = {}
    for i, node in enumerate(node for node in capture.graph.nodes if "anchor" in node.meta):
        above = max((latest[source] for source in node.all_input_nodes if source in latest), default=0)
        latest[node] = above + steps[i % len(steps)]
    dense = {stage: i for i, stage in enumerate(sorted(set(latest.values())))}
    plan = Plan({anchor_of(node): dense[stage] for node, stage in latest.items()})
    try:
        Pipeline((MarkBoundaries(plan),)).run(capture.module(program.tree))
    except PreconditionError as error:
        assume("must stay in one stage" not in str(error))
        raise
    return plan


def steps():
    """Where a value begins a new stage: now and then."""
    return st.lists(st.sampled_from([0, 0, 0, 1]), min_size=3, max_size=11)


@st.composite
def models(draw):
    """A float64 model as an fx graph with one or two inputs and up to four outputs, and its inputs."""
    sketch = _Sketch(draw)
    for kind in draw(st.lists(st.sampled_from(sorted(_KINDS)), min_size=3, max_size=12)):
        _KINDS[kind](sketch, sketch.pick())
    return sketch.done(), sketch.inputs()


class _Sketch:
    def __init__(self, draw):
        self.draw, self.root, self.graph = draw, nn.Module(), fx.Graph()
        self.count = draw(st.integers(1, 2))
        self.values = [self.graph.placeholder(f"x{i}") for i in range(self.count)]
        self.root.weight = nn.Parameter(torch.ones(WIDTH))
        self.made = 0
        self.module(nn.Linear(WIDTH, WIDTH), self.values[0])

    def pick(self):
        return self.draw(st.sampled_from(self.values))

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
        early = self.draw(st.lists(st.sampled_from(computed), max_size=2, unique=True))
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


_KINDS = {
    "add": lambda sketch, value: sketch.call(torch.add, value, sketch.pick()),
    "add in place": lambda sketch, value: sketch.call(iadd, sketch.call(torch.add, value, 1), sketch.pick()),
    "detach": lambda sketch, value: sketch.detach(value),
    "dropout": lambda sketch, value: sketch.module(nn.Dropout(0.5), value),
    "frozen": lambda sketch, value: sketch.module(nn.Linear(WIDTH, WIDTH).requires_grad_(False), value),
    "halves": lambda sketch, value: sketch.halves(value),
    "linear": lambda sketch, value: sketch.module(nn.Linear(WIDTH, WIDTH), value),
    "linear too": lambda sketch, value: sketch.module(nn.Linear(WIDTH, WIDTH), value),
    "multiply": lambda sketch, value: sketch.call(torch.mul, value, sketch.pick()),
    "norm": lambda sketch, value: sketch.module(nn.BatchNorm1d(WIDTH), value),
    "relu in place": lambda sketch, value: sketch.call(torch.relu_, sketch.call(torch.add, value, 1)),
    "tanh": lambda sketch, value: sketch.call(torch.tanh, value),
    "tied": lambda sketch, value: sketch.again("m1", value),
    "weight": lambda sketch, value: sketch.weigh(value),
}
