"""A marked graph as one graph per stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from passes.anchors import anchor_of
from passes.boundary import boundaries, sides
from passes.dataflow import dataflow
from passes.errors import PreconditionError
from passes.plan import Plan
from passes.values import value_of


@dataclass(frozen=True)
class Part:
    """One stage of a graph: what it reads, what it writes, and the parameters and buffers it owns.

    The placeholders of `graph` are `reads` and its output is the tuple of `writes`. A value that
    crosses a boundary has the name that `BoundarySpec.names` gives it on both sides; any other has its
    node's. `crossings` are the boundaries that it leaves by, each with the names of its values.
    `outputs` are those of `writes` that the whole graph returns with a gradient.
    """

    index: int
    graph: fx.Graph
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    crossings: Mapping[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """The stages of a graph, in an order in which they can run, and what the whole returns.

    `inputs` are the names of the graph's placeholders. `result` is its output with the name of a
    value for each node. `in_order` says whether running stage after stage draws random numbers and
    writes to memory in the order of the whole graph.
    """

    parts: tuple[Part, ...]
    inputs: tuple[str, ...]
    result: tuple[Any, ...]
    in_order: bool


@dataclass(frozen=True)
class Name:
    """Stands for a value in `Split.result`."""

    of: str


def split_stages(gm: fx.GraphModule, plan: Plan) -> Split:
    """Split a graph that mark-boundaries has marked. The graph is left as it is. O(V + E).

    Raises:
        PreconditionError: the graph is not marked.
    """
    output = next(iter(reversed(gm.graph.nodes)))
    computed = [n for n in gm.graph.nodes if n.op not in {"placeholder", "get_attr", "output"}]
    if any("stage" not in node.meta for node in computed):
        raise PreconditionError("cannot split the graph into stages: mark-boundaries has not run on it")
    maker = _Splitter(gm, plan)
    work = maker.work([node for node in computed if node not in maker.markers])
    parts = [maker.part(index, work[index]) for index in range(len(plan))]
    result = _named(output.args[0], maker.names)
    inputs = tuple(maker.names[node] for node in gm.graph.nodes if node.op == "placeholder")
    # A result that is a parameter itself is computed by nobody; the last stage hands it over.
    return Split(tuple(parts), inputs, result, _in_order(gm))


def _apart(node: fx.Node, taken: Set[str]) -> str:
    """The node's name, changed where a boundary has it: what crosses can be read beside the boundary, too."""
    return f"{node.name}.value" if node.name in taken else node.name


class _Splitter:
    """`marks` tells what stands for a value behind its boundary; `names` has one name for both sides."""

    def __init__(self, gm: fx.GraphModule, plan: Plan) -> None:
        self.gm = gm
        self.plan = plan
        self.marks: dict[fx.Node, fx.Node] = {}
        self.markers: set[fx.Node] = set()
        self.crossings: defaultdict[int, dict[str, tuple[str, ...]]] = defaultdict(dict)
        known: dict[fx.Node, str] = {}
        for marker, spec in boundaries(gm):
            self.crossings[marker.meta["stage"]][spec.name] = spec.names
            for (value, side), name in zip(sides(marker), spec.names, strict=True):
                self.marks[value], known[side] = side, name
            self.markers.add(marker)
        self.markers |= known.keys()
        taken = set(known.values())
        self.names = {node: known.get(node) or _apart(node, taken) for node in gm.graph.nodes}
        self.returned = set(next(iter(reversed(gm.graph.nodes))).all_input_nodes)
        self.parameters = {id(parameter): name for name, parameter in gm.named_parameters()}
        self.buffers = {id(buffer): name for name, buffer in gm.named_buffers()}

    def work(self, computed: list[fx.Node]) -> defaultdict[int, list[fx.Node]]:
        """The nodes that each stage computes, copies among them."""
        work: defaultdict[int, list[fx.Node]] = defaultdict(list)
        for node in computed:
            for index in self._places(node):
                work[index].append(node)
        return work

    def part(self, index: int, mine: list[fx.Node]) -> Part:
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        wanted = dict.fromkeys(source for node in mine for source in node.all_input_nodes)
        last = index == len(self.plan) - 1
        if last:
            wanted |= dict.fromkeys(node for node in self.returned if node.op == "get_attr")
        here = set(mine)
        outside = [node for node in wanted if node not in here]
        reads = [node for node in outside if node.op != "get_attr"]
        for node in reads:
            copies[node] = graph.placeholder(node.name)
        attributes = [node for node in outside if node.op == "get_attr"]
        for node in [*attributes, *mine]:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        writes = self._writes(mine, index)
        if last:
            writes |= {self.names[node]: node for node in attributes if node in self.returned}
        graph.output(tuple(copies[node] for node in writes.values()))
        outputs = [node for node in mine if node in self.returned and value_of(node).requires_grad]
        return Part(
            index,
            graph,
            tuple(self.names[node] for node in reads),
            tuple(writes),
            self.crossings[index],
            tuple(self.names[node] for node in outputs),
            self._state_of([*attributes, *mine], self.parameters),
            self._state_of([*attributes, *mine], self.buffers),
        )

    def _places(self, node: fx.Node) -> set[int]:
        """The stage of a node, and the others that compute it as well."""
        copies = () if "copies" in node.meta else self.plan.copies.get(anchor_of(node), ())
        return {node.meta["stage"], *copies}

    def _writes(self, mine: list[fx.Node], index: int) -> dict[str, fx.Node]:
        """Names to the nodes whose values leave this stage, through a boundary or plainly."""
        writes: dict[str, fx.Node] = {}
        for node in mine:
            if node.meta["stage"] != index:
                continue  # a copy; the stage that owns it writes it
            if node in self.marks:
                writes[self.names[self.marks[node]]] = node
            outside = [user for user in node.users if user.op != "output" and user not in self.markers]
            places = self._places(node)
            if node in self.returned or any(not self._places(user) <= places for user in outside):
                writes[self.names[node]] = node
        return writes

    def _state_of(self, nodes: Iterable[fx.Node], names: dict[int, str]) -> tuple[str, ...]:
        """Full names of the parameters, or of the buffers, that these nodes read, each once."""
        seen: dict[str, None] = {}
        for node in nodes:
            target = str(node.target)
            if node.op == "call_module":
                module = self.gm.get_submodule(target)
                found = [*module.parameters(), *module.buffers()]
            elif node.op == "get_attr":
                owner, _, leaf = target.rpartition(".")
                held = getattr(self.gm.get_submodule(owner), leaf)
                found = [*held.parameters(), *held.buffers()] if isinstance(held, nn.Module) else [held]
            else:
                continue
            seen |= dict.fromkeys(names[id(each)] for each in found if id(each) in names)
        return tuple(seen)


def _named(returned: Any, names: dict[fx.Node, str]) -> tuple[Any, ...]:
    """What the graph returns, a flat list, with a name for each node."""
    return tuple(Name(names[item]) if isinstance(item, fx.Node) else item for item in returned)


def _in_order(gm: fx.GraphModule) -> bool:
    flow = dataflow(gm)
    stages = {node.name: node.meta["stage"] for node in gm.graph.nodes if "stage" in node.meta}
    return all(stages[before] <= stages[name] for name in stages for before in flow.nodes[name]["follows"])
