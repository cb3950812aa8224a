"""Orders in which a graph can be computed, whose prefixes are nested cuts of any width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from passes.dataflow import carrying
from passes.frontiers import working

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from passes.placement import Placement

    Numbers = NDArray[np.int64]


def graph_order(units: nx.DiGraph[int], place: Mapping[str, int]) -> list[int]:
    """The units in graph order, as far as their constraints admit. O((V + E) log V)."""

    def first(unit: int) -> int:
        return min(place[name] for name in units.nodes[unit]["members"])

    return list(nx.lexicographical_topological_sort(units, first))


def lazy_order(units: nx.DiGraph[int], place: Mapping[str, int]) -> list[int]:
    """The units so that each is computed just before it is first read, the longer of its ways first.

    What nothing reads, a head, comes as soon as it can, shallow heads before deep ones.

    A branch is thus done before the next one starts, and an input that joins late is late: few values are
    open at a time, where graph order computes all towers of a graph side by side, say. O((V + E) log V).
    """
    depth: dict[int, int] = {}
    for unit in nx.topological_sort(units):
        depth[unit] = 1 + max((depth[earlier] for earlier in units.pred[unit]), default=0)
    first = {unit: min(place[name] for name in units.nodes[unit]["members"]) for unit in units}
    order: list[int] = []
    seen: set[int] = set()

    def ways(unit: int) -> Iterator[int]:
        return iter(sorted(units.pred[unit], key=lambda each: (-depth[each], first[each])))

    for end in sorted(
        (unit for unit in units if not units.succ[unit]), key=lambda each: (depth[each], first[each])
    ):
        stack = [(end, ways(end))]
        seen.add(end)
        while stack:
            unit, rest = stack[-1]
            earlier = next((each for each in rest if each not in seen), None)
            if earlier is None:
                order.append(stack.pop()[0])
            else:
                seen.add(earlier)
                stack.append((earlier, ways(earlier)))
    return order


class Prefixes:
    """The cuts that one order makes: after each of its units that carry a gradient, in this order.

    `position` is the place of each carrying value among these units. Of the cut after position p, `width`
    counts the values that cross it and `sent` their bytes, `cost` is what lies before it, and `work` counts
    the working values there. `admissible` are the positions where tensors alone cross, and some work is done
    before and after. O(V + E).
    """

    def __init__(self, placement: Placement, order: list[int], cost: Mapping[str, int]) -> None:
        flow, units = placement.flow, placement.units
        self.names = carrying(flow)
        held = set(self.names)
        place: dict[str, int] = {}
        count = 0
        for unit in order:
            if mine := held.intersection(units.nodes[unit]["members"]):
                place |= dict.fromkeys(mine, count)
                count += 1
        last = {
            name: max((place[reader] for reader in flow.succ[name] if reader in held), default=place[name])
            for name in self.names
        }
        self.position = np.array([place[name] for name in self.names], dtype=np.int64)
        self.last = np.array([last[name] for name in self.names], dtype=np.int64)
        self.bytes = np.array([flow.nodes[name]["bytes"] for name in self.names], dtype=np.int64)
        self.width = self._open(np.ones(len(self.names), dtype=np.int64), count)
        self.sent = self._open(self.bytes, count)
        blocked = np.array([not flow.nodes[name]["crossable"] for name in self.names], dtype=np.int64)
        works = set(working(flow))
        self.work = _summed(place, dict.fromkeys(works, 1), count)
        self.cost = _summed(placement.spread(place), cost, count)
        done = (self.work > 0) & (self.work < len(works)) & (self._open(blocked, count) == 0)
        self.admissible = np.flatnonzero(done & (self.width > 0))

    def mask(self, position: int) -> int:
        """The carrying values before the cut after a position, bit i for the i-th in graph order. O(V)."""
        return int.from_bytes(np.packbits(self.position <= position, bitorder="little").tobytes(), "little")

    def values(self, position: int) -> tuple[str, ...]:
        """The values that cross the cut after a position, in graph order. O(V)."""
        places = np.flatnonzero((self.position <= position) & (self.last > position))
        return tuple(self.names[place] for place in places)

    def _open(self, weight: Numbers, count: int) -> Numbers:
        """The sum of the weights of the values that cross the cut after each position."""
        change = np.zeros(count + 1, dtype=np.int64)
        np.add.at(change, self.position, weight)
        np.add.at(change, self.last, -weight)
        return np.cumsum(change)[:count]


def _summed(place: Mapping[str, int], weight: Mapping[str, int], count: int) -> Numbers:
    """For each position the sum of the weights of what is placed there or earlier."""
    total = np.zeros(max(count, 1), dtype=np.int64)
    for name, at in place.items():
        if one := weight.get(name, 0):
            total[at] += one
    return np.cumsum(total)[:count]
