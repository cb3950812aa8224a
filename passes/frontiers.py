"""Where a graph can be cut: down-sets of its gradient-carrying values, found by the few values that cross.

A cut puts some of the carrying values before it and the rest after it, so that no edge runs back: the
former are a down-set, and its *frontier* are those that are read on the other side. A down-set holds
its frontier, all ancestors of that, and perhaps whole branches to an output that nothing else reads
(an auxiliary head): what is not above the frontier or such an end would be read, in the end, on the
other side. So a small frontier and the ends say all, and there are few down-sets with a small
frontier, while a graph may have millions of down-sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import networkx as nx

from passes.dataflow import carrying, precedence
from passes.masks import bits_of, mask_of

MOST = 50_000
"""After so many pairs and triples of values were tried that are all far apart, no more are."""
FEW = 600
"""Carrying values up to which every cut of three values is found."""
_FEW_ENDS = 3


@dataclass(frozen=True)
class Frontier:
    """One cut: the values that cross it in graph order, and the mask of the values before it."""

    values: tuple[str, ...]
    inside: int


def frontiers(flow: nx.DiGraph[str], width: int) -> list[Frontier]:
    """Every admissible cut that one to `width` values cross, from small to large, each once.

    Admissible is a cut before and after which some work is done, that only `crossable` values cross, and that
    keeps what is `together` and the order that `follows` asks for. All cuts are found for widths 1 and 2, and
    for width 3 in graphs of up to `FEW` carrying values; of wider ones those with at most two values that
    are above no other, and those of three that close one another. Of a graph with more than three ends
    only those are found that the ends pass in graph order, or by how much lies above them. Where independent
    branches make more than `MOST` pairs, there are only some, spread over the graph. O(V^2) tests of V bits,
    O(E) of them for width 1.
    """
    shape = _Shape(flow)
    found = {inside: open_ for ends in shape.ends_before() for open_, inside in shape.narrow(ends, width)}
    kept = [
        Frontier(shape.names_of(open_), inside)
        for inside, open_ in found.items()
        if shape.admits(open_, inside)
    ]
    return sorted(kept, key=lambda cut: (cut.inside.bit_count(), cut.inside))


def working(flow: nx.DiGraph[str]) -> list[str]:
    """The carrying values that cost FLOPs or read a weight; all, where nothing does."""
    names = carrying(flow)
    found = [name for name in names if flow.nodes[name]["flops"] or _reads_weight(flow, name)]
    return found or names


class _Shape:
    """The carrying values of a graph as bit masks."""

    def __init__(self, flow: nx.DiGraph[str]) -> None:
        self.names = carrying(flow)
        place = {name: at for at, name in enumerate(self.names)}
        self.sources = [mask_of(place[s] for s in flow.pred[name] if s in place) for name in self.names]
        self.readers = [mask_of(place[r] for r in flow.succ[name] if r in place) for name in self.names]
        self.ends = mask_of(at for at, readers in enumerate(self.readers) if not readers)
        self.crossable = mask_of(place[name] for name in self.names if flow.nodes[name]["crossable"])
        self.working = mask_of(place[name] for name in working(flow))
        self.needs = _needs(flow, place)
        self.above: list[int] = []  # ancestors and the value itself
        self.used: list[int] = []  # readers of the strict ancestors
        for at, sources in enumerate(self.sources):
            above, used = 1 << at, 0
            for source in bits_of(sources):
                above |= self.above[source]
                used |= self.used[source] | self.readers[source]
            self.above.append(above)
            self.used.append(used)
        self.below = [1 << at for at in range(len(self.names))]  # descendants and the value itself
        for at in reversed(range(len(self.names))):
            for reader in bits_of(self.readers[at]):
                self.below[at] |= self.below[reader]

    def names_of(self, mask: int) -> tuple[str, ...]:
        return tuple(self.names[at] for at in bits_of(mask))

    def admits(self, open_: int, inside: int) -> bool:
        """Whether work is done on both sides, tensors cross, and no constraint points back."""
        if not open_ or open_ & ~self.crossable or not inside & self.working or not self.working & ~inside:
            return False
        # Every value inside is above an open one or an end, and needs nothing that those do not need.
        return not any(self.needs[at] & ~inside for at in bits_of(open_ | inside & self.ends))

    def ends_before(self) -> Iterator[int]:
        """The sets of ends that may lie before a cut; all of them never do."""
        ends = list(bits_of(self.ends))
        if len(ends) <= _FEW_ENDS:
            for count in range(len(ends)):
                yield from map(mask_of, combinations(ends, count))
        else:
            # A head is as far up as what lies above it, in whatever order the heads are computed.
            by_depth = sorted(ends, key=lambda end: self.above[end].bit_count())
            found = [mask_of(order[:count]) for order in (ends, by_depth) for count in range(len(ends))]
            yield from dict.fromkeys(found)

    def narrow(self, ends: int, width: int) -> Iterator[tuple[int, int]]:
        """Frontier and down-set of each cut that up to `width` values cross and just `ends` lie before."""
        tips = _Tips(self, ends)
        if ends and (open_ := self.open_in(tips.base, tips.read & ~tips.base, width)):
            yield open_, tips.base
        for at, inside in tips.inside.items():
            if (open_ := self.open_in(inside ^ 1 << at, tips.loose[at], width - 1)) is not None:
                yield open_ | 1 << at, inside
        if width > 1:
            yield from tips.pairs()
        if width > 2 and len(tips.inside) <= FEW:
            yield from tips.more(width)

    def open_in(self, inside: int, loose: int, most: int) -> int | None:
        """The values of `inside` that those of `loose`, outside it, read; None if they are too many."""
        open_ = 0
        for at in bits_of(loose):
            open_ |= self.sources[at] & inside
            if open_.bit_count() > most:
                return None
        return open_


class _Tips:
    """The values that a cut may lie after, when some ends lie before it already.

    `inside` is what then lies before the cut, `loose` what still reads from there, but for the tip itself.
    """

    def __init__(self, shape: _Shape, ends: int) -> None:
        self.shape = shape
        self.base, self.read = 0, 0
        for at in bits_of(ends):
            self.base |= shape.above[at]
            self.read |= shape.used[at]
        tips = [at for at in range(len(shape.names)) if not (self.base | shape.ends) >> at & 1]
        self.mask = mask_of(tips)
        self.inside = {at: shape.above[at] | self.base for at in tips}
        self.loose = {at: (shape.used[at] | self.read) & ~self.inside[at] for at in tips}

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Pairs of which neither is above the other: what each leaves open, the other must close."""
        inside, loose = self.inside, self.loose
        closed = mask_of(at for at in inside if not loose[at])
        tried = 0
        for one in _spread(list(inside)):
            others = (self.mask if loose[one] else closed) & self._beside(one)
            for other in bits_of(self._closing(others, loose[one])):
                counted = one > other and bool(loose[other]) == bool(loose[one])
                if not counted and not loose[other] & ~inside[one]:
                    yield 1 << one | 1 << other, inside[one] | inside[other]
                tried += 1
            if tried > MOST:
                return

    def more(self, width: int) -> Iterator[tuple[int, int]]:
        """Pairs that leave values above them open, and triples that close one another."""
        inside, loose, shape = self.inside, self.loose, self.shape
        tried = 0
        for one, other in combinations(_spread(list(inside)), 2):
            if not self._beside(one) >> other & 1:
                continue
            both, pair = inside[one] | inside[other], 1 << one | 1 << other
            left = (loose[one] | loose[other]) & ~both
            if open_ := shape.open_in(both ^ pair, left, width - 2):
                yield open_ | pair, both
            # The triple is met three times unless its other pairs leave something open that it closes.
            for third in bits_of(self._closing(self.mask & self._beside(one) & self._beside(other), left)):
                if not loose[third] & ~(both | inside[third]):
                    yield pair | 1 << third, both | inside[third]
                tried += 1
            if tried > MOST:
                return

    def _beside(self, at: int) -> int:
        """What is neither above nor below."""
        return ~(self.shape.below[at] | self.shape.above[at])

    def _closing(self, others: int, loose: int) -> int:
        """Those of the others that are, or are below, each of the loose values."""
        for at in bits_of(loose):
            if not (others := others & self.shape.below[at]):
                break
        return others


def _spread(items: list[int]) -> list[int]:
    """The items so that those near one another are far apart: the first few are a sample of all."""
    step = max(1, round(len(items) * 0.618))
    while math.gcd(step, len(items)) > 1:
        step += 1
    return [items[at * step % len(items)] for at in range(len(items))]


def _needs(flow: nx.DiGraph[str], place: dict[str, int]) -> list[int]:
    """For each value, those that no constraint lets lie after a cut that it lies before."""
    units = precedence(flow)
    within: dict[int, int] = {}
    needs = [0] * len(place)
    for unit in nx.topological_sort(units):
        members = [place[name] for name in units.nodes[unit]["members"] if name in place]
        mask = mask_of(members)
        for earlier in units.pred[unit]:
            mask |= within[earlier]
        within[unit] = mask
        for at in members:
            needs[at] = mask
    return needs


def _reads_weight(flow: nx.DiGraph[str], name: str) -> bool:
    sources = (flow.nodes[source] for source in flow.pred[name])
    return bool(flow.nodes[name]["parameters"]) or any(s["requires_grad"] and not s["fed"] for s in sources)
