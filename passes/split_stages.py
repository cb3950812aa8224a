"""A marked graph as one graph per stage."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from passes.anchors import anchor_of
from passes.boundary import boundaries
from passes.dataflow import dataflow
from passes.errors import PreconditionError
from passes.plan import Plan
from passes.values import value_of


@dataclass(frozen=True)
class Part:
    """One stage of a graph: what it reads, what it writes, and the parameters it owns.

    The placeholders of `graph` are `reads` and its output is the tuple of `writes`. A value that
    crosses a boundary has the boundary's name on both sides; any other has its node's.
    `outputs` are those of `writes` that the whole graph returns with a gradient.
    """

    index: int
    graph: fx.Graph
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    crossings: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]


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
    markers = {node: spec.name for node, spec in boundaries(gm)}
    marks = {node.all_input_nodes[0]: node for node in markers}
    names = {node: markers.get(node) or _apart(node, markers.values()) for node in gm.graph.nodes}
    maker = _Splitter(plan, names, marks, set(output.all_input_nodes))
    parts = [maker.part(gm, index, computed) for index in range(len(plan))]
    result = _named(output.args[0], names)
    inputs = tuple(names[node] for node in gm.graph.nodes if node.op == "placeholder")
    # A result that is a parameter itself is computed by nobody; the last stage hands it over.
    return Split(tuple(parts), inputs, result, _in_order(gm))


def _apart(node: fx.Node, taken: Collection[str]) -> str:
    """The node's name, changed where a boundary has it: what crosses can be read beside the boundary, too."""
    return f"{node.name}.value" if node.name in taken else node.name


class _Splitter:
    def __init__(
        self, plan: Plan, names: dict[fx.Node, str], marks: dict[fx.Node, fx.Node], returned: set[fx.Node]
    ) -> None:
        self.plan = plan
        self.names = names
        self.marks = marks
        self.returned = returned

    def part(self, gm: fx.GraphModule, index: int, computed: list[fx.Node]) -> Part:
        mine = [node for node in computed if node not in self.names_of_markers and self._is_in(node, index)]
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        wanted = dict.fromkeys(source for node in mine for source in node.all_input_nodes)
        last = index == len(self.plan) - 1
        if last:
            wanted |= dict.fromkeys(node for node in self.returned if node.op == "get_attr")
        outside = [node for node in wanted if node not in set(mine)]
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
        crossings = tuple(self.names[self.marks[node]] for node in mine if node in self.marks)
        outputs = [node for node in mine if node in self.returned and value_of(node).requires_grad]
        return Part(
            index,
            graph,
            tuple(self.names[node] for node in reads),
            tuple(writes),
            crossings,
            tuple(self.names[node] for node in outputs),
            tuple(_parameters(gm, [*attributes, *mine])),
        )

    @property
    def names_of_markers(self) -> set[fx.Node]:
        return set(self.marks.values())

    def _is_in(self, node: fx.Node, index: int) -> bool:
        return node.meta["stage"] == index or (
            "copies" not in node.meta and index in self.plan.copies.get(anchor_of(node), ())
        )

    def _writes(self, mine: list[fx.Node], index: int) -> dict[str, fx.Node]:
        """Names to the nodes whose values leave this stage, through a boundary or plainly."""
        writes: dict[str, fx.Node] = {}
        for node in mine:
            if node.meta["stage"] != index:
                continue  # a copy; the stage that owns it writes it
            if node in self.marks:
                writes[self.names[self.marks[node]]] = node
            outside = [
                user for user in node.users if user.op != "output" and user not in self.names_of_markers
            ]
            if node in self.returned or any(
                not self._is_in(u, index) and not self._copied(node, u) for u in outside
            ):
                writes[self.names[node]] = node
        return writes

    def _copied(self, node: fx.Node, reader: fx.Node) -> bool:
        copies = self.plan.copies.get(anchor_of(node), ())
        return reader.meta["stage"] in copies


def _parameters(gm: fx.GraphModule, nodes: Iterable[fx.Node]) -> Iterable[str]:
    """Full names of the parameters that these nodes read, each once."""
    seen: dict[str, None] = {}
    by_id = {id(p): name for name, p in gm.named_parameters()}
    for node in nodes:
        target = str(node.target)
        if node.op == "call_module":
            found = gm.get_submodule(target).parameters()
        elif node.op == "get_attr":
            owner, _, leaf = target.rpartition(".")
            attribute = getattr(gm.get_submodule(owner), leaf)
            found = [attribute] if isinstance(attribute, nn.Parameter) else []
        else:
            continue
        seen |= dict.fromkeys(by_id[id(p)] for p in found)
    return seen


def _named(returned: Any, names: dict[fx.Node, str]) -> tuple[Any, ...]:
    """What the graph returns, a flat list, with a name for each node."""
    return tuple(Name(names[item]) if isinstance(item, fx.Node) else item for item in returned)


def _in_order(gm: fx.GraphModule) -> bool:
    flow = dataflow(gm)
    stages = {node.name: node.meta["stage"] for node in gm.graph.nodes if "stage" in node.meta}
    return all(stages[before] <= stages[name] for name in stages for before in flow.nodes[name]["follows"])
