"""Random models with random plans."""

import copy

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import fx, nn

import dni_fx
from passes import Pipeline, Plan, PreconditionError
from passes.anchors import anchor_of
from passes.mark_boundaries import MarkBoundaries

WIDTH = 4
KINDS = ["linear", "linear", "frozen", "tied", "tanh", "add", "mul", "relu_", "dropout", "chunk", "norm", "detach", "add_", "weight"]


@st.composite
def cases(draw):
    """A model, its inputs, and a plan that the graph of its train mode admits."""
    model, inputs = draw(models())
    program = dni_fx.capture(model, inputs, frontend="symbolic")
    (_, capture), *_ = program.captures
    stage_of, stages = {}, draw(st.integers(2, 4))
    latest = {}
    for node in capture.graph.nodes:
        if "anchor" in node.meta:
            least = max((latest[source] for source in node.all_input_nodes if source in latest), default=0)
            latest[node] = min(stages - 1, least + draw(st.integers(0, 3)) // 3)
            stage_of[anchor_of(node)] = latest[node]
    plan = Plan(stage_of)
    try:
        Pipeline((MarkBoundaries(plan),)).run(capture.module(copy.deepcopy(model)))
    except PreconditionError as error:
        assume("must stay in one stage" not in str(error))
        raise
    return model, inputs, plan


@st.composite
def models(draw):
    """A float64 model as an fx graph, with one or two inputs and up to three outputs."""
    sketch = _Sketch(draw)
    for _ in range(draw(st.integers(3, 12))):
        sketch.add(draw(st.sampled_from(KINDS)))
    return sketch.done(), sketch.inputs()


class _Sketch:
    def __init__(self, draw):
        self.draw, self.root, self.graph = draw, nn.Module(), fx.Graph()
        self.count = draw(st.integers(1, 2))
        self.values = [self.graph.placeholder(f"x{i}") for i in range(self.count)]
        self.root.weight = nn.Parameter(torch.ones(WIDTH))
        self.made = 0
        self.add("linear")

    def add(self, kind):
        getattr(self, f"_{kind.replace('_', '_in_place_') if kind.endswith('_') else kind}")(self._pick())

    def inputs(self):
        draw = torch.Generator().manual_seed(0)
        return tuple(torch.randn(3, WIDTH, dtype=torch.float64, generator=draw) for _ in range(self.count))

    def done(self):
        computed = self.values[self.count :]
        unread = [value for value in computed if not value.users] or computed[-1:]
        early = self.draw(st.lists(st.sampled_from(computed), max_size=2, unique=True))
        self.graph.output(tuple(dict.fromkeys([*unread[-2:], *early])))
        self.graph.eliminate_dead_code(lambda node: node.op != "placeholder" and node.target not in _IN_PLACE)
        model = fx.GraphModule(self.root, self.graph)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.made)
            for parameter in model.parameters():
                nn.init.normal_(parameter.data)
        return model.double()

    def _pick(self):
        return self.draw(st.sampled_from(self.values))

    def _module(self, module, value):
        self.made += 1
        self.root.add_module(f"m{self.made}", module)
        self.values.append(self.graph.call_module(f"m{self.made}", (value,)))

    def _call(self, function, *args):
        self.values.append(self.graph.call_function(function, args))

    def _linear(self, value):
        self._module(nn.Linear(WIDTH, WIDTH), value)

    def _frozen(self, value):
        self._module(nn.Linear(WIDTH, WIDTH).requires_grad_(False), value)

    def _norm(self, value):
        self._module(nn.BatchNorm1d(WIDTH), value)

    def _dropout(self, value):
        self._module(nn.Dropout(0.5), value)

    def _tied(self, value):
        self.values.append(self.graph.call_module("m1", (value,)))

    def _tanh(self, value):
        self._call(torch.tanh, value)

    def _detach(self, value):
        self.values.append(self.graph.call_method("detach", (value,)))

    def _weight(self, value):
        self._call(torch.mul, value, self.graph.call_function(torch.tanh, (self.graph.get_attr("weight"),)))

    def _add(self, value):
        self._call(torch.add, value, self._pick())

    def _mul(self, value):
        self._call(torch.mul, value, self._pick())

    def _chunk(self, value):
        a, b = (self.graph.call_function(torch.chunk, (value, 2, 1)) for _ in range(2))
        first = self.graph.call_function(getitem, (a, 0))
        second = self.graph.call_function(getitem, (b, 1))
        self._call(torch.cat, [second, first], 1)

    def _relu_in_place_(self, value):
        fresh = self.graph.call_function(torch.add, (value, 1))
        self._call(torch.relu_, fresh)

    def _add_in_place_(self, value):
        fresh = self.graph.call_module("m1", (value,))
        self.values.append(fresh)
        self._call(iadd, fresh, self._pick())


from operator import getitem, iadd  # noqa: E402

_IN_PLACE = {torch.relu_, iadd}
