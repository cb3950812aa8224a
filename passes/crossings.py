"""What a plan sends from one stage to another, before any graph is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING

from torch import fx

from passes.anchors import anchor_of, identifier
from passes.boundary import BoundarySpec, value_spec
from passes.errors import PreconditionError
from passes.joint import misjoined, ways
from passes.plan import Plan
from passes.values import value_of

if TYPE_CHECKING:
    import networkx as nx


def crossings(
    gm: fx.GraphModule, plan: Plan, flow: nx.DiGraph[str], classes: int = 0, outputs: int = 0
) -> Iterator[tuple[tuple[fx.Node, ...], BoundarySpec]]:
    """The boundaries that `mark-boundaries` would make of a plan, each with the nodes of its values.

    A value that carries a gradient crosses if a later stage reads it on the way to the output. `flow` is
    the dataflow of the graph. O(V + E).

    Raises:
        PreconditionError: values that the plan joins do not cross together; lists all of them.
    """
    stages = {node.name: stage for node, stage in plan.assign(gm.graph).items()}
    nodes = {node.name: node for node in gm.graph.nodes}
    crossing = ways(flow, stages, plan.copies)
    wrong = misjoined(flow, stages, crossing, plan.joint) if plan.joint else ()
    PreconditionError.unless_none("cannot join values as planned", wrong)
    taken: set[str] = set()
    cost: Counter[int] = Counter()
    for name, stage in stages.items():
        cost[stage] += flow.nodes[name]["flops"]
    for group in _grouped([nodes[name] for name in crossing], plan):
        producer, consumers = crossing[group[0].name]
        spec = BoundarySpec(
            _name(group, taken),
            tuple(map(value_spec, group)),
            producer,
            consumers,
            classes=classes,
            outputs=outputs,
            cost=cost[producer],
        )
        taken.add(spec.name)
        yield group, spec


def _grouped(nodes: Sequence[fx.Node], plan: Plan) -> Iterable[tuple[fx.Node, ...]]:
    """What crosses, in graph order, those that the plan joins together."""
    number = {anchor: at for at, group in enumerate(plan.joint) for anchor in group}
    groups: dict[int | fx.Node, list[fx.Node]] = {}
    for node in nodes:
        groups.setdefault(number.get(anchor_of(node), node), []).append(node)
    return map(tuple, groups.values())


def _name(group: Sequence[fx.Node], taken: Set[str]) -> str:
    """A name from the place of the values, unlike those that are taken: `a.b` and `a_b` look the same.

    What crosses with another is not what crosses alone, so they have no name in common.
    """
    name = base = "_and_".join(identifier(anchor_of(node)) for node in group)
    while name in taken:
        name = f"{base}_{sum(each.startswith(base) for each in taken)}"
    return name


def plain_crossings(gm: fx.GraphModule, plan: Plan, flow: nx.DiGraph[str]) -> dict[fx.Node, int]:
    """Tensors that cross without a gradient, with their bytes. O(V + E).

    What a later stage computes anew does not cross.
    """
    stages = plan.assign(gm.graph)
    learned = {node for group, _ in crossings(gm, plan, flow) for node in group}
    return {
        node: value_of(node).bytes
        for node in stages
        if node not in learned and value_of(node).is_tensor and _is_sent(node, stages, plan)
    }


def _is_sent(node: fx.Node, stages: Mapping[fx.Node, int], plan: Plan) -> bool:
    def places(each: fx.Node) -> set[int]:
        return {stages[each], *plan.copies.get(anchor_of(each), ())}

    own = places(node)
    return any(user in stages and not places(user) <= own for user in node.users)
