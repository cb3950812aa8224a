"""What a plan sends from one stage to another, before any graph is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torch import fx

from passes.anchors import anchor_of, identifier
from passes.boundary import BoundarySpec, ValueSpec
from passes.plan import Plan
from passes.values import value_of

if TYPE_CHECKING:
    import networkx as nx


def crossings(
    gm: fx.GraphModule, plan: Plan, flow: nx.DiGraph[str], classes: int = 0, outputs: int = 0
) -> Iterator[tuple[fx.Node, BoundarySpec]]:
    """The boundaries that `mark-boundaries` would make of a plan, each with the node that it would follow.

    A value that carries a gradient crosses if a later stage reads it on the way to the output. `flow` is
    the dataflow of the graph. O(V + E).
    """
    stages = plan.assign(gm.graph)
    taken: set[str] = set()
    cost: Counter[int] = Counter()
    for node, stage in stages.items():
        cost[stage] += flow.nodes[node.name]["flops"]
    for node, stage in stages.items():
        if not flow.nodes[node.name]["carries"] or anchor_of(node) in plan.copies:
            continue
        later = [user for user in node.users if stages.get(user, -1) > stage]
        if any(flow.nodes[user.name]["carries"] for user in later):
            name = base = identifier(anchor_of(node))
            while name in taken:  # `a.b` and `a_b` look the same
                name = f"{base}_{sum(each.startswith(base) for each in taken)}"
            taken.add(name)
            consumers = tuple(sorted({stages[user] for user in later}))
            yield (
                node,
                BoundarySpec(
                    name,
                    (value_spec(node),),
                    stage,
                    consumers,
                    classes=classes,
                    outputs=outputs,
                    cost=cost[stage],
                ),
            )


def plain_crossings(gm: fx.GraphModule, plan: Plan, flow: nx.DiGraph[str]) -> dict[fx.Node, int]:
    """Tensors that cross without a gradient, with their bytes. O(V + E).

    What a later stage computes anew does not cross.
    """
    stages = plan.assign(gm.graph)
    learned = {node for node, _ in crossings(gm, plan, flow)}
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


def value_spec(node: fx.Node) -> ValueSpec:
    """What is known of a node's value, which is one tensor, for the boundary that it may cross."""
    value = value_of(node)
    assert value.shape is not None
    assert value.dtype is not None
    return ValueSpec(
        anchor_of(node), value.shape, value.dims, value.dtype, value.batch_dim, value.feature_dim
    )
