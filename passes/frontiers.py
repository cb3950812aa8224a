"""Where a graph can be cut: down-sets of its gradient-carrying values, found by the few values that cross.

A cut puts some of the carrying values before it and the rest after it, so that no edge runs back: the
former are a down-set, and its *frontier* are those that are read on the other side. A down-set holds
its frontier, all ancestors of that, and perhaps whole branches to an output that nothing else reads
(an auxiliary head): what is not above the frontier or such an end would be read, in the end, on the
other side. So a small frontier and the ends say all, and there are few down-sets with a small
frontier, while a graph may have millions of down-sets. Values sets are bit masks in Python integers:
bit i is the i-th carrying value in graph order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from operator import itemgetter

import networkx as nx

from passes.dataflow import carrying, precedence

MOST = 3000
"""At most this many frontiers of two values are kept; a programme over them takes time quadratic in it."""
_FEW_ENDS = 3


@dataclass(frozen=True)
class Frontier:
    """One cut: the values that cross it in graph order, and the mask of the values before it."""

    values: tuple[str, ...]
    inside: int


def frontiers(flow: nx.DiGraph[str], width: int) -> list[Frontier]:
    """Every admissible cut that one to `width` values cross, `width` being 1 or 2, from small to large.

    Admissible is a cut before and after which some work is done, that only tensors cross, and that
    keeps what is `together` and the order that `follows` asks for. Of a graph with more than three ends
    only those cuts are found that the ends pass in graph order, and of more than `MOST` cuts only the
    narrowest of each size. O(V^2) tests of V bits at worst for width 2, O(E) for width 1.
    """
    shape = _Shape(flow)
    found = [cut for ends in shape.ends_before() for cut in shape.narrow(ends, width)]
    kept = [Frontier(shape.names_of(open_), inside) for open_, inside in found if shape.admits(open_, inside)]
    return _thinned(flow, sorted(kept, key=lambda cut: (cut.inside.bit_count(), cut.inside)))


def prefixes(flow: nx.DiGraph[str]) -> list[Frontier]:
    """Every admissible cut that has all that comes first in graph order before it, however many cross.

    O(V) operations on V bits for each of V cuts.
    """
    shape = _Shape(flow)
    open_, found = 0, list[Frontier]()
    for last in range(len(shape.names)):
        inside = (2 << last) - 1
        open_ |= 1 << last
        open_ = _mask(at for at in _bits(open_) if shape.readers[at] & ~inside)
        if shape.admits(open_, inside):
            found.append(Frontier(shape.names_of(open_), inside))
    return found


class _Shape:
    """The carrying values of a graph as bit masks."""

    def __init__(self, flow: nx.DiGraph[str]) -> None:
        self.names = carrying(flow)
        place = {name: at for at, name in enumerate(self.names)}
        self.sources = [_mask(place[s] for s in flow.pred[name] if s in place) for name in self.names]
        self.readers = [_mask(place[r] for r in flow.succ[name] if r in place) for name in self.names]
        self.ends = _mask(at for at, readers in enumerate(self.readers) if not readers)
        self.tensors = _mask(place[name] for name in self.names if flow.nodes[name]["crossable"])
        self.working = _mask(place[name] for name in working(flow))
        self.needs = self._needs(flow, place)
        self.above: list[int] = []  # ancestors and the value itself
        self.used: list[int] = []  # readers of the strict ancestors
        for at, sources in enumerate(self.sources):
            above, used = 1 << at, 0
            for source in _bits(sources):
                above |= self.above[source]
                used |= self.used[source] | self.readers[source]
            self.above.append(above)
            self.used.append(used)
        self.below = [1 << at for at in range(len(self.names))]  # descendants and the value itself
        for at in reversed(range(len(self.names))):
            for reader in _bits(self.readers[at]):
                self.below[at] |= self.below[reader]

    def names_of(self, mask: int) -> tuple[str, ...]:
        return tuple(self.names[at] for at in _bits(mask))

    def admits(self, open_: int, inside: int) -> bool:
        """Whether work is done on both sides, tensors cross, and no constraint points back."""
        if not open_ or open_ & ~self.tensors or not inside & self.working or not self.working & ~inside:
            return False
        # Every value inside is above an open one or an end, and needs nothing that those do not need.
        return not any(self.needs[at] & ~inside for at in _bits(open_ | inside & self.ends))

    def ends_before(self) -> Iterator[int]:
        """The sets of ends that may lie before a cut; all of them never do."""
        ends = list(_bits(self.ends))
        if len(ends) <= _FEW_ENDS:
            for count in range(len(ends)):
                yield from map(_mask, combinations(ends, count))
        else:
            yield from (_mask(ends[:count]) for count in range(len(ends)))

    def narrow(self, ends: int, width: int) -> Iterator[tuple[int, int]]:
        """Frontier and down-set of each cut that up to `width` values cross and just `ends` lie before."""
        base, read = 0, 0
        for at in _bits(ends):
            base |= self.above[at]
            read |= self.used[at]
        if ends and (open_ := self._open(base, read & ~base, width)):
            yield open_, base
        tips = [at for at in range(len(self.names)) if not (base | self.ends) >> at & 1]
        inside = {at: self.above[at] | base for at in tips}
        loose = {at: (self.used[at] | read) & ~inside[at] for at in tips}
        for at in tips:
            if not loose[at]:
                yield 1 << at, inside[at]
            elif open_ := self._open(inside[at] ^ 1 << at, loose[at], width - 1):
                yield open_ | 1 << at, inside[at]
        if width > 1:
            yield from self._pairs(inside, loose)

    def _open(self, inside: int, loose: int, most: int) -> int:
        """The values of `inside` that those of `loose`, outside it, read; 0 if they are too many."""
        open_ = 0
        for at in _bits(loose):
            open_ |= self.sources[at] & inside
            if open_.bit_count() > most:
                return 0
        return open_

    def _pairs(self, inside: dict[int, int], loose: dict[int, int]) -> Iterator[tuple[int, int]]:
        """Pairs of which neither is above the other: what each leaves open, the other must close."""
        closed = _mask(at for at in inside if not loose[at])
        tips = _mask(inside)
        for one in inside:
            others = (tips if loose[one] else closed) & ~self.below[one] & ~self.above[one]
            for at in _bits(loose[one]):
                if not (others := others & self.below[at]):
                    break
            for other in _bits(others):
                counted = one > other and bool(loose[other]) == bool(loose[one])
                if not counted and not loose[other] & ~inside[one]:
                    yield 1 << one | 1 << other, inside[one] | inside[other]

    def _needs(self, flow: nx.DiGraph[str], place: dict[str, int]) -> list[int]:
        """For each value, those that no constraint lets lie after a cut that it lies before."""
        units = precedence(flow)
        within: dict[int, int] = {}
        needs = [0] * len(place)
        for unit in nx.topological_sort(units):
            mask = _mask(place[name] for name in units.nodes[unit]["members"] if name in place)
            for earlier in units.pred[unit]:
                mask |= within[earlier]
            within[unit] = mask
            for name in units.nodes[unit]["members"]:
                if name in place:
                    needs[place[name]] = mask
        return needs


def working(flow: nx.DiGraph[str]) -> list[str]:
    """The carrying values that cost FLOPs or read a weight; all, where nothing does."""
    names = carrying(flow)
    found = [name for name in names if flow.nodes[name]["flops"] or _reads_weight(flow, name)]
    return found or names


def _reads_weight(flow: nx.DiGraph[str], name: str) -> bool:
    sources = (flow.nodes[source] for source in flow.pred[name])
    return bool(flow.nodes[name]["parameters"]) or any(s["requires_grad"] and not s["fed"] for s in sources)


def _thinned(flow: nx.DiGraph[str], cuts: list[Frontier]) -> list[Frontier]:
    if len(cuts) <= MOST:
        return cuts
    weighed = [(sum(flow.nodes[name]["bytes"] for name in cut.values), at) for at, cut in enumerate(cuts)]
    starts = [len(cuts) * slot // MOST for slot in range(MOST + 1)]
    return [cuts[min(weighed[a:b], key=itemgetter(0))[1]] for a, b in pairwise(starts)]


def _mask(places: Iterable[int]) -> int:
    mask = 0
    for at in places:
        mask |= 1 << at
    return mask


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
