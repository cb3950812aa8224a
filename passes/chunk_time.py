"""Cut the state of recurrent layers, and of unrolled loops, every so many steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import fx
from typing_extensions import override

from passes.anchors import Anchor, anchor_of, identifier
from passes.base import Pass
from passes.boundary import (
    Boundary,
    BoundarySpec,
    ValueSpec,
    moments,
    put_marker,
    sides,
    value_spec,
)
from passes.chunks import call_in_chunks, operate_in_chunks
from passes.dataflow import dataflow
from passes.layers import layer_of, state_of
from passes.loops import Loop, State, loops, misstated, states
from passes.recurrences import layers, refusals
from passes.values import Value, unannotated, value_of

if TYPE_CHECKING:
    import networkx as nx

_IN_CHUNKS = (call_in_chunks, operate_in_chunks)
_PART = "~in_time"


@dataclass(frozen=True)
class ChunkTime(Pass):
    """Put a boundary on what recurrent layers and unrolled loops carry from each `every`-th step to the next.

    `module` are patterns of their names, all of them if there are none. The node of a layer becomes one that
    runs it in chunks and calls the boundary as often as the length of its input asks; in a loop, the
    boundary is called at every place. One layer or loop has one boundary, of its own `group`. It cuts the
    state and nothing else: what is made in one chunk and read outside of the layer or the loop
    gets its true gradient.
    """

    name = "chunk-time"

    every: int = 1
    module: tuple[str, ...] = ()

    @override
    def requires(self, gm: fx.GraphModule) -> Iterator[str]:
        if self.every < 1:
            yield f"every is {self.every}, and a chunk has 1 step or more"
            return
        if blank := unannotated(gm.graph):
            yield blank
            return
        if already := [spec.name for _, spec in moments(gm) if self._means(Anchor(spec.group))]:
            yield f"time is cut already: {', '.join(dict.fromkeys(already))}"
            return
        flow = dataflow(gm)
        for name, refusal in refusals(flow).items():
            if self._means(name):
                yield f"{name} cannot be cut in time: {refusal}"
        nodes = {node.name: node for node in gm.graph.nodes}
        for loop, found in self._loops(flow):
            yield from misstated(flow, loop, found)
            yield from _overwritten(nodes, found)

    @override
    def apply(self, gm: fx.GraphModule) -> bool:
        flow = dataflow(gm)
        nodes = {node.name: node for node in gm.graph.nodes}
        made = False
        for name, calls in layers(flow).items():
            for call in calls if self._means(name) else ():
                made |= self._chunk(gm, nodes[call], name)
        for loop, found in self._loops(flow):
            made |= _mark(gm, nodes, loop.name, found)
        return made

    def _means(self, name: Anchor) -> bool:
        return not self.module or any(fnmatchcase(name, pattern) for pattern in self.module)

    def _loops(self, flow: nx.DiGraph[str]) -> Iterator[tuple[Loop, list[State]]]:
        for loop in loops(flow).values():
            if self._means(loop.name) and (found := states(flow, loop, self.every)):
                yield loop, found

    def _chunk(self, gm: fx.GraphModule, node: fx.Node, name: Anchor) -> bool:
        """Run the layer that a node calls in chunks, in the same node."""
        layer = layer_of(gm, node)
        assert layer is not None
        boundary = _added(gm, name, state_of(gm, node, layer))
        attributes = [boundary] if layer.kind else [str(node.target), boundary]
        with gm.graph.inserting_before(node):
            got = [gm.graph.get_attr(path) for path in attributes]
        for each in got:
            each.meta["value"] = Value()
        rest = () if layer.state is None and not layer.kind else (layer.state,)
        node.args = (
            *([layer.kind] if layer.kind else []),
            *got,
            self.every,
            layer.inputs,
            *rest,
            *layer.rest,
        )
        node.kwargs = {}
        node.op, node.target = "call_function", _IN_CHUNKS[bool(layer.kind)]
        return True


def chunkings(time: Mapping[Anchor, int]) -> tuple[ChunkTime, ...]:
    """The passes that cut what a plan names, each every so many steps."""
    return tuple(
        ChunkTime(every, tuple(name for name, each in time.items() if each == every))
        for every in dict.fromkeys(time.values())
    )


def in_one_piece(gm: fx.GraphModule) -> bool:
    """Undo the pass: layers run over whole sequences, and no boundary is left in time."""
    marked = list(moments(gm))
    for node, _ in marked:
        if node.op == "get_attr":
            for user in list(node.users):
                _restore(user)
        else:
            for value, side in sides(node):
                side.replace_all_uses_with(value)
                if side is not node:
                    gm.graph.erase_node(side)
        gm.graph.erase_node(node)
    for spec in dict.fromkeys(spec for _, spec in marked):
        gm.delete_submodule(spec.path)
    return bool(marked)


def _restore(node: fx.Node) -> None:
    """Make a call in chunks the call that it was."""
    first, *_ = node.args
    if node.target is call_in_chunks:
        assert isinstance(first, fx.Node)
        node.op, node.target, node.args = "call_module", first.target, node.args[3:]
        first.graph.erase_node(first)
    else:
        node.target, node.args = getattr(torch.ops.aten, str(first)).input, node.args[3:]


def _added(gm: fx.GraphModule, name: Anchor, values: Sequence[ValueSpec]) -> str:
    """The path of the boundary of a layer or loop, which is put there if it is new."""
    known = {spec.group: spec for _, spec in moments(gm)}
    if name not in known:
        taken = {spec.name for spec in known.values()}
        free = base = f"{identifier(name)}_in_time"
        while free in taken:  # `a.b` and `a_b` look the same
            free = f"{base}_{sum(each.startswith(base) for each in taken)}"
        known[name] = BoundarySpec(free, tuple(values), 0, (0,), group=name)
        gm.add_submodule(known[name].path, Boundary(known[name]))
    return known[name].path


def _mark(gm: fx.GraphModule, nodes: Mapping[str, fx.Node], name: Anchor, found: Sequence[State]) -> bool:
    """Call the boundary of a loop between its iterations."""
    first, *_ = found
    path = _added(gm, name, [value_spec(nodes[value]) for value in first.values])
    for number, state in enumerate(found):
        values = [nodes[value] for value in state.values]
        inside = {nodes[reader] for reader in state.readers}.__contains__
        for value, side in put_marker(gm.graph, values, path):
            side.meta = dict(value.meta) | {"anchor": Anchor(f"{anchor_of(value)}{_PART}.{number}")}
            value.replace_all_uses_with(side, delete_user_cb=inside)
    return True


def _overwritten(nodes: Mapping[str, fx.Node], found: Sequence[State]) -> Iterator[str]:
    """What is written to after it has gone from one iteration to the next."""
    place = {name: at for at, name in enumerate(nodes)}
    writers = [node for node in nodes.values() if value_of(node).mutates]
    for state in found:
        last = max((place[value] for value in state.values), default=0)
        for node in writers:
            written = value_of(node).mutates.intersection(state.values)
            if written and place[node.name] > last:
                yield (
                    f"{anchor_of(node)} writes to {', '.join(sorted(written))}, which goes from one "
                    "iteration to the next, and no boundary would see that: write h = h + x, not h += x"
                )
                return
