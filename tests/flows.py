"""Random graphs with facts made up for their values, and what cuts of a graph are by definition."""

import operator
from itertools import combinations

import networkx as nx
import torch
from hypothesis import strategies as st
from torch import fx, nn

from passes.anchors import set_anchors
from passes.dataflow import carrying, computed
from passes.values import Value, value_of


def work(*_):
    """Stands for any operation: these graphs are never run."""


def fact(**facts):
    """A small float tensor, but for what is said otherwise."""
    return Value(**{"shape": (4, 8), "dtype": torch.float32, "bytes": 1, **facts})


class Sketch:
    """A graph in the making, with a learned weight and a frozen one."""

    def __init__(self, inputs=("x",)):
        self.root, self.graph = nn.Module(), fx.Graph()
        self.root.weight = nn.Parameter(torch.zeros(()))
        self.root.frozen = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.inputs = [self._given(self.graph.placeholder(name), False) for name in inputs]
        self.weight = self._given(self.graph.get_attr("weight"), True)
        self.frozen = self._given(self.graph.get_attr("frozen"), False)

    def add(self, *sources, target=work, **facts):
        """An operation on some nodes; it requires grad if one of them does."""
        node = self.graph.call_function(target, sources)
        learns = any(value_of(source).requires_grad for source in node.all_input_nodes)
        node.meta["value"] = fact(**{"requires_grad": learns, **facts})
        return node

    def done(self, *returned):
        self.graph.output(returned)
        set_anchors(self.graph)
        return fx.GraphModule(self.root, self.graph)

    def _given(self, node, learns):
        node.meta["value"] = fact(requires_grad=learns)
        return node


@st.composite
def graphs(draw, most=7, ends=4):
    """Graphs of operations that learn, draw random numbers, write memory, return tuples, or cut gradients."""
    sketch = Sketch(("x", "y"))
    tensors = [*sketch.inputs, sketch.add(sketch.inputs[0], sketch.weight)]
    kinds = ["plain"] * 4 + ["learned"] * 4 + ["random", "write", "tuple", "detached", "weight"]
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=3, max_size=most)):
        size = {"flops": draw(st.integers(0, 4)), "bytes": draw(st.integers(1, 5))}
        near = [*tensors[2:][::-1], *sketch.inputs]  # long chains can be cut, so they are drawn more often
        sources = [
            near[at] for at in draw(st.sets(st.integers(0, 3), min_size=1, max_size=2)) if at < len(near)
        ]
        sources = sources or near[:1]
        shared = value_of(sources[0]).aliases | {sources[0].name}
        match kind:
            case "learned":
                tensors.append(sketch.add(*sources, sketch.weight, **size))
            case "random":
                tensors.append(sketch.add(*sources, random=True, **size))
            case "write":
                tensors.append(sketch.add(*sources, mutates=shared, aliases=shared, **size))
            case "tuple":
                whole = sketch.add(*sources, shape=None, dtype=None)
                tensors += [sketch.add(whole, index, target=operator.getitem) for index in range(2)]
            case "detached":
                tensors.append(sketch.add(*sources, requires_grad=False, **size))
            case "weight":
                tensors.append(sketch.add(draw(st.sampled_from([sketch.weight, sketch.frozen])), **size))
            case _:
                tensors.append(sketch.add(*sources, **size))
    unread = [node for node in tensors[2:] if not node.users] or tensors[-1:]
    return sketch.done(*draw(st.lists(st.sampled_from(unread), min_size=1, max_size=ends, unique=True)))


def constraints(flow):
    """An edge from each computed node to those that may not be in an earlier stage."""
    order = nx.DiGraph()
    order.add_nodes_from(computed(flow))
    for name in computed(flow):
        facts = flow.nodes[name]
        earlier = {*flow.pred[name], *facts["follows"]}
        if facts["together"] is not None:
            earlier |= {other for other in order if flow.nodes[other]["together"] == facts["together"]}
        order.add_edges_from((other, name) for other in earlier if other in order)
    return order


def crossing(flow, inside):
    """The carrying values inside that a carrying value outside reads."""
    outside = set(carrying(flow)) - set(inside)
    return frozenset(name for name in inside if outside.intersection(flow.succ[name]))


def working(flow):
    """The carrying values with FLOPs, a parameter or a weight made in the graph; all if there is none."""
    made = {name for name in flow if flow.nodes[name]["requires_grad"] and not flow.nodes[name]["fed"]}
    found = {
        name
        for name in carrying(flow)
        if flow.nodes[name]["flops"] or flow.nodes[name]["parameters"] or made.intersection(flow.pred[name])
    }
    return found or set(carrying(flow))


def all_cuts(flow, width):
    """Every set of carrying values that may lie before a cut which 1 to `width` values cross."""
    names = carrying(flow)
    order = constraints(flow)
    needs = {name: (nx.ancestors(order, name) | {name}).intersection(names) for name in names}
    for size in range(1, len(names)):
        for inside in map(frozenset, combinations(names, size)):
            values = crossing(flow, inside)
            if (
                all(needs[name] <= inside for name in inside)
                and 1 <= len(values) <= width
                and all(flow.nodes[name]["is_tensor"] for name in values)
                and inside & working(flow)
                and working(flow) - inside
            ):
                yield inside


def stages_by_definition(flow, cuts):
    """A stage for each computed node, given the carrying values before each of some nested cuts."""
    order = constraints(flow)
    given = {name: sum(name not in inside for inside in cuts) for name in carrying(flow)}

    def unit(name):
        return {other for other in nx.ancestors(order, name) if name in nx.ancestors(order, other)} | {name}

    def learned(name):
        return given.keys() & nx.ancestors(order, name)

    def stage(name):
        members = unit(name)
        if held := members & given.keys():
            return given[next(iter(held))]
        later = {reader for member in members for reader in order.succ[member]} - members
        if later and not any(learned(member) for member in members):
            return min(map(stage, later))
        return max((given[above] for above in nx.ancestors(order, name) & given.keys()), default=0)

    return {name: stage(name) for name in order}
