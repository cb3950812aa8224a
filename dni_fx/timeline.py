"""How much memory a backward pass holds at most, read off an annotated graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import fx

from passes.values import value_of

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Moment:
    """What one node adds: `saved` by its forward pass, `gradients` of parameters by its backward pass.

    `own` is the memory of its value if it is not that of an earlier one, needed until the place `until`.
    `flowing` is the size of the gradient of its value, which is there from the backward pass of its last
    reader, at the place `last`, to its own, or to just before if it is a view, whose gradient is one too.
    `output` says whether the model returns it.
    """

    name: str
    saved: int
    own: int
    until: int
    flowing: int
    is_view: bool
    last: int
    gradients: int
    output: bool


class Timeline:
    """The computed nodes of a graph in the order in which they run, and what each does to memory.

    `inputs` is the size of the batch, which the caller holds all the while: what nodes save of it is no more.
    """

    def __init__(self, gm: fx.GraphModule, flow: nx.DiGraph[str]) -> None:
        nodes = [node for node in gm.graph.nodes if flow.nodes[node.name]["anchor"] is not None]
        self.place = {node: at for at, node in enumerate(nodes)}
        self.sizes = {
            name: parameter.numel() * parameter.element_size()
            for name, parameter in gm.named_parameters()
            if parameter.requires_grad
        }
        self.read = [set(flow.nodes[node.name]["parameters"]) & self.sizes.keys() for node in nodes]
        seen: set[str] = set()
        moments: list[Moment] = []
        for at in reversed(range(len(nodes))):
            new = self.read[at] - seen
            seen |= new
            moments.append(self._moment(nodes[at], at, flow, self.parameter_bytes(new)))
        self.moments = moments[::-1]
        self.inputs = 0
        for node in gm.graph.nodes:
            if node.op == "placeholder":
                self._hold(node)

    def parameter_bytes(self, names: Iterable[str]) -> int:
        """The size of the gradients of some parameters."""
        return sum(self.sizes[name] for name in names)

    def read_by(self, members: Iterable[int]) -> set[str]:
        """The trainable parameters that some nodes read."""
        return {name for at in members for name in self.read[at]}

    def peak(self, members: Sequence[int], gradients: bool = True) -> int:
        """The most that the backward pass of some nodes holds, places in ascending order, all run forward.

        That is what their forward pass has saved and the backward pass not yet used, the gradients that flow,
        and, with `gradients`, those of parameters that are there already. O(V).
        """
        inside = {place: at for at, place in enumerate(members)}
        change = [0] * (len(members) + 1)
        for at, place in enumerate(members):
            moment = self.moments[place]
            start, last = at + moment.is_view, inside.get(moment.last, len(members) - 1)
            if start <= last:
                change[start] += moment.flowing
                change[last + 1] -= moment.flowing
        flowing = list(accumulate(change[:-1]))
        saved = list(accumulate(self.moments[place].saved for place in members))
        there = [self.moments[place].gradients if gradients else 0 for place in members]
        ready = list(accumulate(reversed(there)))[::-1]
        return max((sum(each) for each in zip(flowing, saved, ready, strict=True)), default=0)

    def crossing(self) -> list[int]:
        """Bytes of the values that are made at or before each place and read after it. O(V)."""
        change = [0] * (len(self.moments) + 1)
        for at, moment in enumerate(self.moments):
            change[at] += moment.own
            change[moment.until] -= moment.own
        return list(accumulate(change[:-1]))

    def whole(self) -> list[bool]:
        """Whether no node after each place writes into memory that is older than the place. O(V) or so."""
        change = [0] * (len(self.moments) + 1)
        names = {moment.name: at for at, moment in enumerate(self.moments)}
        for node, at in self.place.items():
            for name in value_of(node).mutates & names.keys():
                change[names[name]] += 1
                change[at] -= 1
        return [not writers for writers in accumulate(change[:-1])]

    def _hold(self, node: fx.Node) -> None:
        """Count an input among what the caller holds, and no longer among what a node saves."""
        size = value_of(node).bytes
        self.inputs += size
        if (first := saver(node)) in self.place:
            at = self.place[first]
            self.moments[at] = replace(self.moments[at], saved=self.moments[at].saved - size)

    def _moment(self, node: fx.Node, at: int, flow: nx.DiGraph[str], gradients: int) -> Moment:
        value = value_of(node)
        carries = flow.nodes[node.name]["carries"] and _is_float(value.dtype)
        return Moment(
            node.name,
            value.saved,
            0 if value.aliases else value.bytes,
            max([at, *(self.place.get(user, at) for user in readers(node))]),
            value.bytes if carries else 0,
            bool(value.aliases) and not value.mutates,
            max([at, *(self.place.get(user, at) for user in node.users)]),
            gradients,
            any(user.op == "output" for user in node.users),
        )


def _is_float(dtype: torch.dtype | None) -> bool:
    return dtype is None or dtype.is_floating_point or dtype.is_complex


def saver(node: fx.Node) -> fx.Node | None:
    """The first node that saves a value for its backward pass, as far as sizes tell; None if none does."""
    size = value_of(node).bytes
    near = [each for each in (node, *readers(node)) if each.op != "output"]
    return next((each for each in near if value_of(each).saved >= size > 0), None)


def readers(node: fx.Node) -> list[fx.Node]:
    """The readers of a value and of its views."""
    found: dict[fx.Node, None] = {}
    waiting = list(node.users)
    while waiting:
        reader = waiting.pop()
        if reader not in found and node.name in value_of(reader).aliases:
            waiting += reader.users
        found[reader] = None
    return list(found)
