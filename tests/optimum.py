"""The best balance that any plan of a graph has, found by looking at every cut."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from operator import or_
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from passes.dataflow import carrying, precedence
from passes.placement import Placement

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Unit:
    """Values that share a stage, and all that may not be in a later stage than they, as masks."""

    own: int
    needs: int
    """With the values themselves."""


class DownSets:
    """The sets of carrying values that constraints let lie before a cut: bit i is the i-th in graph order."""

    def __init__(self, flow: nx.DiGraph[str]) -> None:
        self.flow = flow
        self.names = carrying(flow)
        place = {name: at for at, name in enumerate(self.names)}
        self.readers = [sum(1 << place[r] for r in flow.succ[name] if r in place) for name in self.names]
        self.crossable = [bool(flow.nodes[name]["crossable"]) for name in self.names]
        self.working = sum(1 << at for at, name in enumerate(self.names) if _works(flow, name))
        self.working = self.working or (1 << len(self.names)) - 1
        self.units = list(_units(flow, place))

    def all(self, most: int) -> set[int] | None:
        """Every down-set but the empty one, grown unit by unit; None if there are more than `most`."""
        found: set[int] = set()
        layer = {0}
        steps = [(unit.own, unit.needs ^ unit.own) for unit in self.units]
        while layer:
            layer = {
                inside | own
                for inside in layer
                for own, before in steps
                if not own & inside and not before & ~inside
            }
            found |= layer
            if len(found) > most:
                return None
        return found

    def narrow(self, width: int) -> set[int]:
        """A superset of all down-sets that up to `width` values cross; for hundreds of values in seconds.

        A unit of a down-set that no other unit of it needs is read on the other side, or by nothing. So a
        down-set is what some units that nothing reads and at most `width` others need. If there are `width`
        others, none but they are read on the other side.
        """
        ends = [unit for unit in self.units if not self._readers(unit.own) & ~unit.own]
        found: set[int] = set()
        for count in range(len(ends) + 1):
            for some in combinations(ends, count):
                base = reduce(or_, (unit.needs for unit in some), 0)
                others = [unit for unit in self.units if unit not in ends and not unit.own & base]
                used = [self._readers(unit.needs ^ unit.own) for unit in others]
                found.update(_grown(list(zip(others, used, strict=True)), base, self._readers(base), width))
        return found

    def width(self, inside: int) -> int | None:
        """How many values cross this cut; None if it is not admissible."""
        if not inside & self.working or not self.working & ~inside:
            return None
        open_ = [at for at in _bits(inside) if self.readers[at] & ~inside]
        return len(open_) if open_ and all(self.crossable[at] for at in open_) else None

    def cuts(self, width: int, most: int) -> list[int]:
        """Every admissible cut that up to `width` values cross, by `all` or, beyond `most`, `narrow`."""
        found = self.all(most)
        tried = self.narrow(width) if found is None else found
        return [inside for inside in tried if (self.width(inside) or width + 1) <= width]

    def least(self, cuts: Collection[int], stages: int, cost: Mapping[str, int]) -> int | None:
        """The least that the costliest stage costs in any plan that is made of these cuts; None without one.

        Some work is done in every stage. O(stages M^2) for M cuts.
        """
        if stages == 1:
            return sum(cost.values())
        ordered = sorted(cuts, key=int.bit_count)
        before = Placement(self.flow).costs_before(ordered, cost)
        work = np.array([(inside & self.working).bit_count() for inside in ordered])
        rows = _rows(ordered, len(self.names))
        worst = np.full((stages - 1, len(ordered)), _NEVER)
        for at in range(len(ordered)):
            inner = np.flatnonzero(~(rows[:at] & ~rows[at]).any(axis=1) & (work[:at] < work[at]))
            worst[0, at] = before[at]
            if len(inner):
                ways = np.maximum(worst[:-1, inner], before[at] - before[inner])
                worst[1:, at] = ways.min(axis=1)
        done = worst[-1] < _NEVER
        return int(np.maximum(worst[-1], sum(cost.values()) - before)[done].min()) if done.any() else None

    def _readers(self, inside: int) -> int:
        return reduce(or_, (self.readers[at] for at in _bits(inside)), 0)


def _grown(others: list[tuple[Unit, int]], base: int, read: int, width: int) -> Iterator[int]:
    """What up to `width` units need, none of which needs another, and the base. Units come in order.

    With each unit goes what reads from all that it needs but itself; `read` is what reads from the base.
    """

    def grow(inside: int, tips: int, read: int, start: int, left: int) -> Iterator[int]:
        for at in range(start, len(others)):
            unit, used = others[at]
            if unit.needs & tips:
                continue
            more, used = inside | unit.needs, used | read
            if left > 1 or not used & ~more:
                yield more
            if left > 1:
                yield from grow(more, tips | unit.own, used, at + 1, left - 1)

    yield base
    yield from grow(base, 0, read, 0, width)


def _units(flow: nx.DiGraph[str], place: Mapping[str, int]) -> Iterator[Unit]:
    """The units that hold a carrying value, each after those that it needs."""
    order = precedence(flow)
    needs: dict[int, int] = {}
    for unit in nx.topological_sort(order):
        own = sum(1 << place[name] for name in order.nodes[unit]["members"] if name in place)
        needs[unit] = reduce(or_, (needs[earlier] for earlier in order.pred[unit]), own)
        if own:
            yield Unit(own, needs[unit])


def _works(flow: nx.DiGraph[str], name: str) -> bool:
    """Whether it costs FLOPs, or reads a parameter or a weight that the graph makes."""
    facts = flow.nodes[name]
    sources = [flow.nodes[source] for source in flow.pred[name]]
    return bool(
        facts["flops"] or facts["parameters"] or any(s["requires_grad"] and not s["fed"] for s in sources)
    )


def _bits(mask: int) -> list[int]:
    return [at for at, digit in enumerate(reversed(f"{mask:b}")) if digit == "1"]


def _rows(masks: list[int], values: int) -> NDArray[np.uint64]:
    """The masks as rows of words."""
    size = (values // 64 + 1) * 8
    packed = b"".join(mask.to_bytes(size, "little") for mask in masks)
    return np.frombuffer(packed, dtype=np.uint64).reshape(len(masks), size // 8)
