"""The gradient-carrying values of a graph in blocks that no cut divides, and the cheapest of many cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
from networkx.algorithms.flow import boykov_kolmogorov

from passes.dataflow import carrying, precedence
from passes.frontiers import working
from passes.masks import bits_of, mask_of


@dataclass(frozen=True)
class Crosser:
    """A carrying value that other blocks than its own read; `readers` is the mask of those."""

    name: str
    home: int
    readers: int
    bytes: int


class Blocks:
    """The carrying values in blocks that must share a stage, numbered in an order to compute them in.

    A set of blocks is a mask, bit i for block i. It may lie before a cut if it holds, with each block, those
    of `needs` of that block: what it reads, and what constraints ask for. A value that may not cross is in
    one block with its readers. `works` are the blocks that do some work, `total` is what the whole graph
    costs. O(V + E) operations on masks.
    """

    def __init__(self, flow: nx.DiGraph[str], cost: Mapping[str, int]) -> None:
        order, held = _pieces(flow), set(carrying(flow))
        pieces = list(
            nx.lexicographical_topological_sort(order, key=lambda piece: order.nodes[piece]["first"])
        )
        place = {piece: at for at, piece in enumerate(pieces)}
        self._above = [[place[source] for source in order.pred[piece]] for piece in pieces]
        self._below = [[place[reader] for reader in order.succ[piece]] for piece in pieces]
        members: list[list[str]] = [order.nodes[piece]["names"] for piece in pieces]
        self._cost = [sum(cost[name] for name in names) for names in members]
        self._late: list[bool] = []
        for names, above in zip(members, self._above, strict=True):
            self._late.append(held.isdisjoint(names) and all(self._late[at] for at in above))
        self.names = [found for names in members if (found := [name for name in names if name in held])]
        numbers = iter(range(len(self.names)))
        self._block = [-1 if held.isdisjoint(names) else next(numbers) for names in members]
        self._near = self._nearest()
        self.needs = [near for near, block in zip(self._near, self._block, strict=True) if block >= 0]
        home = {name: at for at, names in enumerate(self.names) for name in names}
        self.works = mask_of(home[name] for name in working(flow))
        self.crossers = list(_crossers(flow, home))
        self.total = sum(self._cost)

    def orders(self) -> list[list[int]]:
        """A few orders to compute the blocks in: the graph's own first, then depth first, and by levels."""
        given = list(range(len(self.needs)))
        orders = [given, self._lazy(False), self._lazy(True), *self._by_level()]
        return [order for at, order in enumerate(orders) if order not in orders[:at]]

    def cost(self, inside: int) -> int:
        """What lies before a cut costs, all values placed as `passes.placement.plan_of` does. O(V + E)."""
        flags = [not near & ~inside for near in self._near]
        for at, block in enumerate(self._block):
            if block >= 0:
                flags[at] = bool(inside >> block & 1)
        for at in reversed(range(len(flags))):
            if self._late[at] and self._below[at]:
                flags[at] = any(flags[reader] for reader in self._below[at])
        return sum(cost for cost, flag in zip(self._cost, flags, strict=True) if flag)

    def costs(self, order: Sequence[int]) -> list[int]:
        """What each block costs in this order, with all that has its place there but carries no gradient."""
        spot = {block: at for at, block in enumerate(order)}
        places = [max((spot[block] for block in bits_of(near)), default=0) for near in self._near]
        for at, block in enumerate(self._block):
            if block >= 0:
                places[at] = spot[block]
        found = [0] * len(order)
        for at in reversed(range(len(places))):
            if self._late[at] and self._below[at]:
                places[at] = min(places[reader] for reader in self._below[at])
            found[places[at]] += self._cost[at]
        return found

    def crossing(self, inside: int) -> frozenset[int]:
        """Which of `crossers` cross a cut."""
        return frozenset(
            at
            for at, value in enumerate(self.crossers)
            if inside >> value.home & 1 and value.readers & ~inside
        )

    def cheapest(self, inner: int, outer: int, paid: frozenset[int] = frozenset()) -> int:
        """The largest of the cuts between two others that the fewest bytes cross; `paid` values are free.

        Source: Boykov and Kolmogorov 2004, as in networkx; all but what lies between the two is one node.
        """
        between = outer & ~inner
        net: nx.DiGraph[int | str] = nx.DiGraph()
        net.add_nodes_from(["before", "after", *bits_of(between)])
        for block in bits_of(between):
            net.add_edges_from((block, need) for need in bits_of(self.needs[block] & between))
        weights: Counter[tuple[int | str, int | str]] = Counter()
        for at, value in enumerate(self.crossers):
            readers, beyond = value.readers & between, value.readers & ~outer
            if at in paid or not outer >> value.home & 1 or not (readers or between >> value.home & 1):
                continue
            start = "before" if inner >> value.home & 1 else value.home
            if start == "before" and beyond:
                continue  # it crosses in any case
            ends: list[int | str] = ["after"] if beyond else list(bits_of(readers))
            if len(ends) == 1:
                weights[start, ends[0]] += value.bytes
            else:
                weights[start, f"{at} crosses"] = value.bytes
                net.add_edges_from((f"{at} crosses", reader) for reader in ends)
        for (start, end), weight in weights.items():
            net.add_edge(start, end, capacity=weight)
        _, (found, _) = nx.minimum_cut(net, "before", "after", flow_func=boykov_kolmogorov)
        return inner | mask_of(block for block in found if isinstance(block, int))

    def _nearest(self) -> list[int]:
        """For each piece the blocks that it needs and reaches without passing another."""
        near: list[int] = []
        for above in self._above:
            found = 0
            for at in above:
                found |= near[at] if self._block[at] < 0 else 1 << self._block[at]
            near.append(found)
        return near

    def beside(self, inside: int) -> Iterator[int]:
        """The cuts that have one block more or less before them."""
        needed = 0
        for block in bits_of(inside):
            needed |= self.needs[block]
        for block in bits_of(inside & ~needed):
            yield inside ^ 1 << block
        for block, needs in enumerate(self.needs):
            if not inside >> block & 1 and not needs & ~inside:
                yield inside | 1 << block

    def _by_level(self) -> Iterator[list[int]]:
        """By the length of the longest way from a first block, and by that to a last one."""
        count = len(self.needs)
        above, below = [0] * count, [0] * count
        for block, needs in enumerate(self.needs):
            above[block] = max((above[need] + 1 for need in bits_of(needs)), default=0)
        for block in reversed(range(count)):
            for need in bits_of(self.needs[block]):
                below[need] = max(below[need], below[block] + 1)
        yield sorted(range(count), key=above.__getitem__)
        yield sorted(range(count), key=lambda block: -below[block])

    def _lazy(self, backwards: bool) -> list[int]:
        """Each block just before the first that needs it, the last needed first if `backwards`."""
        order: list[int] = []
        needed = seen = 0
        for need in self.needs:
            needed |= need
        for end in (block for block in range(len(self.needs)) if not needed >> block & 1):
            waiting = [end]
            while waiting:
                block = waiting[-1]
                if missing := self.needs[block] & ~seen:
                    waiting.append((missing if backwards else missing & -missing).bit_length() - 1)
                    continue
                seen |= 1 << waiting.pop()
                order.append(block)
        return order


def _pieces(flow: nx.DiGraph[str]) -> nx.DiGraph[int]:
    """The units of `precedence`, each in one piece with the readers of its values that may not cross.

    A piece has the attributes `names`, in graph order, and `first`, the place of the first of them.
    """
    units = precedence(flow)
    unit_of = {name: unit for unit in units for name in units.nodes[unit]["members"]}
    for name in carrying(flow):
        if not flow.nodes[name]["crossable"]:
            readers = (reader for reader in flow.succ[name] if flow.nodes[reader]["carries"])
            units.add_edges_from((unit_of[reader], unit_of[name]) for reader in readers)
    pieces = nx.condensation(units)
    spot = {name: at for at, name in enumerate(flow)}
    for _, facts in pieces.nodes(data=True):
        names = [name for unit in facts["members"] for name in units.nodes[unit]["members"]]
        facts["names"] = sorted(names, key=spot.__getitem__)
        facts["first"] = spot[facts["names"][0]]
    return pieces


def _crossers(flow: nx.DiGraph[str], home: Mapping[str, int]) -> Iterator[Crosser]:
    for name, block in home.items():
        others = {home[reader] for reader in flow.succ[name] if reader in home} - {block}
        if others:
            yield Crosser(name, block, mask_of(others), flow.nodes[name]["bytes"])
