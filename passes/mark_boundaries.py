"""Mark every gradient-carrying value that a plan sends from one stage to another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import fx
from typing_extensions import override

from passes.anchors import anchor_of
from passes.base import Pass
from passes.boundary import Boundary, boundaries, put_marker
from passes.crossings import crossings
from passes.dataflow import dataflow
from passes.plan import Plan
from passes.values import unannotated, value_of


@dataclass(frozen=True)
class MarkBoundaries(Pass):
    """Put an identity after each gradient-carrying value that leaves its stage.

    One value gets one boundary however many stages read it, so the gradients of all its readers add
    up in one place; values that the plan joins have one together. Values without a gradient cross plainly,
    and the graph's output is in no stage: nothing crosses on its way there. A stage that writes into a value
    from another gets its own copy. Every computed node then has its stage in `node.meta["stage"]`.
    """

    name = "mark-boundaries"

    plan: Plan = field(default_factory=lambda: Plan({}))
    classes: int = 0
    outputs: int = 0

    @override
    def requires(self, gm: fx.GraphModule) -> Iterator[str]:
        if already := [spec.name for _, spec in boundaries(gm)]:
            yield f"the graph is marked already: {', '.join(already)}"
            return
        if blank := unannotated(gm.graph):
            yield blank
            return
        stages = self.plan.assign(gm.graph)
        yield from self.plan.backward_edges(stages)
        yield from _split_groups(gm, stages)

    @override
    def apply(self, gm: fx.GraphModule) -> bool:
        stages = self.plan.assign(gm.graph)
        for node, stage in stages.items():
            node.meta["stage"] = stage
        leaving = list(crossings(gm, self.plan, dataflow(gm), self.classes, self.outputs))
        taken: dict[fx.Node, fx.Node] = {}
        for nodes, spec in leaving:
            later = [[user for user in node.users if stages.get(user, -1) > spec.producer] for node in nodes]
            gm.add_submodule(spec.path, Boundary(spec))
            for (node, side), users in zip(put_marker(gm.graph, nodes, spec.path), later, strict=True):
                side.meta = dict(node.meta)
                node.replace_all_uses_with(side, delete_user_cb=users.__contains__)
                taken[node] = side
        _clone_where_written(gm.graph, stages, taken)
        return bool(leaving)


def _split_groups(gm: fx.GraphModule, stages: dict[fx.Node, int]) -> Iterator[str]:
    """What must stay together and does not: tuples and what unpacks them, memory written and read again."""
    nodes = {node.name: node for node in stages}
    groups: defaultdict[int, list[fx.Node]] = defaultdict(list)
    for name, facts in dataflow(gm).nodes.items():
        if facts["together"] is not None and name in nodes:
            groups[facts["together"]].append(nodes[name])
    for group in groups.values():
        if len({stages[node] for node in group}) > 1:
            places = ", ".join(f"{anchor_of(node)} (stage {stages[node]})" for node in group[:6])
            yield f"these must stay in one stage, since they share a tuple or write to one memory: {places}"


def _clone_where_written(
    graph: fx.Graph, stages: dict[fx.Node, int], taken: Mapping[fx.Node, fx.Node]
) -> None:
    """Give a stage that writes to memory made in another stage a copy, which all its nodes then share.

    `taken` is what later stages read of what crosses a boundary.
    """
    by_name = {node.name: node for node in graph.nodes}
    written = [
        (stage, by_name[name])
        for node, stage in stages.items()
        for name in value_of(node).mutates
        if name in by_name and stages.get(by_name[name], stage) < stage
    ]
    for stage, node in dict.fromkeys(written):
        if _is_state(node, by_name):
            continue
        marker = taken.get(node, node)
        readers = [user for user in marker.users if stages.get(user) == stage]
        if not readers:
            continue
        with graph.inserting_before(min(readers)):
            copy = graph.call_method("clone", (marker,))
        copy.meta = dict(marker.meta) | {"stage": stage, "copies": marker.name}
        for reader in readers:
            reader.replace_input_with(marker, copy)


def _is_state(node: fx.Node, by_name: dict[str, fx.Node]) -> bool:
    """Whether a value lies in the memory of a buffer, where a write is meant to stay."""
    return any(by_name[name].op == "get_attr" for name in value_of(node).aliases if name in by_name)
