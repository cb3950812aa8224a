"""A torch.fx graph, seen by networkx: what flows where, what it costs, what must stay together."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import networkx as nx
from torch import fx, nn

from passes.anchors import module_of
from passes.branches import ways_in
from passes.classes import classes_of
from passes.hazards import Memory
from passes.layers import layer_of
from passes.values import Value, value_of


def dataflow(gm: fx.GraphModule) -> nx.DiGraph[str]:
    """Nodes are fx node names in graph order; an edge runs from a value to its reader.

    An edge also runs from a node that writes memory to those that read the memory later. `bytes` of an
    edge is the size of the value. O(V + E), for as long as few values share memory. Node attributes:

    - `carried`: of an input, the node that makes it for the next step; else empty.
    - `op`, `target` (str); `anchor`, None for an input, a `get_attr` and the output, which have no stage;
      `module`: the path of the module whose call made the value.
    - `flops`, `backward_flops`, `bytes`, `saved`, `is_tensor`, `requires_grad`, `random`: as in `Value`.
    - `seconds`: how long its forward and backward pass take, if that was measured; else None.
    - `parameter_bytes`: the size of the parameters that it reads and that no earlier node reads.
    - `crossable`: it may cross a cut. So may a tensor, unless a constraint forbids it.
    - `impure`: it draws random numbers, writes memory or may change a buffer, so it must run just once.
    - `fed`: it depends on an input of the graph.
    - `carries`: a gradient runs through it. It requires grad, depends on an input, and reaches the
      output through values of its kind. Only these values need a synthetic gradient.
    - `parameters`: the names of the parameters that it reads, one name for each.
    - `together`: nodes with the same number, if it is not None, must be in one stage.
    - `steps`: how many steps a recurrent layer runs there at the example, 0 for anything else; `refusal`: why
      it cannot run in chunks of them.
    - `follows`: nodes that may not be in a later stage, although it reads none of them.

    The graph's own attribute `classes` is what `passes.classes.classes_of` tells.

    >>> gm = fx.symbolic_trace(lambda x: x.relu() + x)
    >>> sorted(dataflow(gm).edges)
    [('add', 'output'), ('relu', 'add'), ('x', 'add'), ('x', 'relu')]
    """
    flow: nx.DiGraph[str] = nx.DiGraph(classes=classes_of(gm))
    for node in gm.graph.nodes:
        flow.add_node(node.name, **_facts(gm, node), together=None)
        for source in node.all_input_nodes:
            flow.add_edge(source.name, node.name, bytes=value_of(source).bytes)
    memory = Memory(gm.graph)
    hazards = [hazard for hazard in memory.hazards() if not hazard.is_order_only]
    for hazard in hazards:
        if not flow.has_edge(hazard.writer.name, hazard.reader.name):
            flow.add_edge(hazard.writer.name, hazard.reader.name, bytes=0)
    _mark_parameters(gm, flow)
    _mark_gradients(flow)
    groups = [[h.writer.name, h.reader.name, *(owner.name for owner in h.owners)] for h in hazards]
    mark_together(flow, groups + _unpacked(gm.graph) + _impure_weights(flow))
    _mark_order(gm, flow, memory)
    return flow


def over_time(flow: nx.DiGraph[str]) -> nx.DiGraph[str]:
    """The graph with its edges back, from values to the inputs that hold them in the next step.

    `delay` of an edge is how many steps it takes: 0, or 1 for these. With them there may be cycles. O(V + E).
    """
    whole = flow.copy()
    for _, _, facts in whole.edges(data=True):
        facts["delay"] = 0
    for name, facts in flow.nodes(data=True):
        if facts["carried"]:
            whole.add_edge(facts["carried"], name, delay=1, bytes=facts["bytes"])
    return whole


def computed(flow: nx.DiGraph[str]) -> list[str]:
    """The nodes that have a stage, in graph order: all but the inputs, `get_attr` nodes and the output."""
    return [name for name in flow if flow.nodes[name]["anchor"] is not None]


def carrying(flow: nx.DiGraph[str]) -> list[str]:
    """The nodes that a gradient runs through, in graph order."""
    return [name for name in flow if flow.nodes[name]["carries"]]


def precedence(flow: nx.DiGraph[str]) -> nx.DiGraph[int]:
    """Computed nodes in units that share a stage; an edge says that a unit may not be earlier than another.

    A unit's nodes are its attribute `members`. What lies on a circle of constraints is one unit. O(V + E).
    """
    names = computed(flow)
    order: nx.DiGraph[str] = nx.DiGraph()
    order.add_nodes_from(names)
    groups: dict[int, list[str]] = defaultdict(list)
    for name in names:
        facts = flow.nodes[name]
        order.add_edges_from(
            (source, name) for source in (*flow.pred[name], *facts["follows"]) if source in order
        )
        if facts["together"] is not None:
            groups[facts["together"]].append(name)
    for members in groups.values():
        order.add_edges_from(nx.utils.pairwise(members, cyclic=True))
    return nx.condensation(order)


def _facts(gm: fx.GraphModule, node: fx.Node) -> dict[str, Any]:
    value = value_of(node)
    anchor = node.meta.get("anchor")
    layer = layer_of(gm, node)
    return {
        "op": node.op,
        "carried": node.meta.get("carried", ""),
        "target": str(node.target),
        "anchor": anchor,
        "module": "" if anchor is None else module_of(anchor),
        "flops": value.flops,
        "backward_flops": value.backward_flops,
        "seconds": node.meta.get("seconds"),
        "bytes": value.bytes,
        "saved": value.saved,
        "is_tensor": value.is_tensor,
        "crossable": value.is_tensor,
        "requires_grad": value.requires_grad and _is_floating(value),
        "random": value.random,
        "impure": value.random or bool(value.mutates) or _has_state(gm, node),
        "writes": bool(value.mutates),
        "parameters": (),
        "parameter_bytes": 0,
        "follows": (),
        "steps": 0 if layer is None else layer.steps,
        "refusal": "" if layer is None else layer.refusal,
    }


def _is_floating(value: Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point or value.dtype.is_complex


def _has_state(gm: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and any(True for _ in gm.get_submodule(str(node.target)).buffers())


def _mark_parameters(gm: fx.GraphModule, flow: nx.DiGraph[str]) -> None:
    """A module call reads its own parameters; what a `get_attr` gets, its readers read.

    A parameter with several names goes by the first of them.
    """
    names = {id(parameter): name for name, parameter in gm.named_parameters()}
    read: dict[str, dict[str, nn.Parameter]] = defaultdict(dict)
    for node in gm.graph.nodes:
        if node.op not in {"call_module", "get_attr"}:
            continue
        found = attrgetter(str(node.target))(gm)
        held = found.parameters() if isinstance(found, nn.Module) else [found]
        own = {names[id(each)]: each for each in held if isinstance(each, nn.Parameter)}
        for reader in [node] if node.op == "call_module" else node.users:
            read[reader.name] |= own
    weighed: set[str] = set()
    for name, facts in flow.nodes(data=True):
        new = {path: each for path, each in read[name].items() if path not in weighed}
        weighed.update(new)
        facts["parameters"] = tuple(read[name])
        facts["parameter_bytes"] = sum(each.numel() * each.element_size() for each in new.values())


def _mark_gradients(flow: nx.DiGraph[str]) -> None:
    for name, facts in flow.nodes(data=True):
        sources = [flow.nodes[source] for source in flow.pred[name]]
        facts["fed"] = facts["op"] == "placeholder" or any(source["fed"] for source in sources)
        # `x[0] = y` returns None, yet the gradient of y runs through it to the later readers of x.
        facts["requires_grad"] |= facts["writes"] and any(source["requires_grad"] for source in sources)
    for name in reversed(list(flow)):
        facts = flow.nodes[name]
        readers = [flow.nodes[reader] for reader in flow.succ[name]]
        leads_on = any(reader["op"] == "output" or reader["carries"] for reader in readers)
        facts["carries"] = (
            facts["anchor"] is not None and facts["requires_grad"] and facts["fed"] and leads_on
        )


def _unpacked(graph: fx.Graph) -> list[list[str]]:
    """What is not one tensor, with the nodes that take it apart: it cannot cross a cut by itself."""
    takes = {operator.getitem, getattr}
    return [
        [
            node.name,
            *(reader.name for reader in node.users if reader.target in takes and reader.args[:1] == (node,)),
        ]
        for node in graph.nodes
        if not value_of(node).is_tensor
    ]


def _impure_weights(flow: nx.DiGraph[str]) -> list[list[str]]:
    """What makes a weight and may run just once, or is made of such, with its readers.

    It cannot be recomputed where they are.
    """
    once: set[str] = set()
    for name, facts in flow.nodes(data=True):
        is_once = facts["impure"] or not once.isdisjoint(flow.pred[name])
        if is_once and facts["requires_grad"] and not facts["fed"]:
            once.add(name)
    return [[name, *flow.succ[name]] for name in flow if name in once]


def mark_together(flow: nx.DiGraph[str], groups: Iterable[Iterable[str]]) -> None:
    """Set `together` so that the nodes of each group share a stage, and groups that overlap do as well."""
    sets: nx.utils.UnionFind[str] = nx.utils.UnionFind()
    for group in groups:
        sets.union(*(name for name in group if flow.nodes[name]["anchor"] is not None))
    members = [group for group in sets.to_sets() if len(group) > 1]
    position = {name: at for at, name in enumerate(flow)}
    for number, group in enumerate(sorted(members, key=lambda group: min(position[name] for name in group))):
        for name in group:
            flow.nodes[name]["together"] = number


def _mark_order(gm: fx.GraphModule, flow: nx.DiGraph[str], memory: Memory) -> None:
    """Random draws keep their order, and branches, calls of one module with state, reads before a write."""
    follows: dict[str, set[str]] = defaultdict(set)
    last: dict[str, str] = {}
    held = {**vars(gm)["_modules"], **vars(gm)}
    for node in gm.graph.nodes:
        changes = ["random numbers"] if value_of(node).random else []
        if any(True for _ in ways_in(node, held)):
            changes.append("the way")
        if _has_state(gm, node):
            changes.append(f"buffers of {node.target}")
        for state in changes:
            if state in last:
                follows[node.name].add(last[state])
            last[state] = node.name
    for reader, writer in memory.overwrites():
        follows[writer.name].add(reader.name)
    for hazard in memory.hazards():
        if hazard.is_order_only:
            follows[hazard.reader.name].add(hazard.writer.name)
    for name, earlier in follows.items():
        kept = [source for source in earlier if flow.nodes[source]["anchor"] is not None]
        flow.nodes[name]["follows"] = tuple(sorted(kept))
