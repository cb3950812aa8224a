"""A sequence of nested cuts that sends few bytes: cheap cuts are collected, and the best of them taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dni_fx.policies.windows import Line
from passes.blocks import Blocks
from passes.masks import mask_of

_HALVINGS = 4
_ROUNDS = 8


@dataclass(frozen=True)
class Cut:
    """The blocks before a cut, what these cost, and which of the crossers cross it."""

    inside: int
    cost: int
    crossing: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Chain:
    """Nested cuts from one before everything on, the bytes that cross, and what the costliest stage costs."""

    cuts: tuple[Cut, ...]
    sent: int = 0
    worst: int = 0


class Search:
    """Cuts that were found for each place of a sequence of nested ones."""

    def __init__(self, blocks: Blocks, stages: int) -> None:
        self.lines = [Line(blocks, order) for order in blocks.orders()]
        self._blocks = blocks
        self._count = stages - 1
        self._start = Cut(0, 0)
        self._end = Cut(mask_of(range(len(blocks.names))), blocks.total)
        self._pools: list[dict[int, Cut]] = [{} for _ in range(self._count)]

    def best(self, target: int, known: Sequence[Mapping[str, int]] = ()) -> list[int] | None:
        """What lies before each cut of the best sequence found; None if there are too few places to cut.

        The costliest stage is to cost `target` at most. `known` are sequences to start from: a stage for each
        carrying value.
        """
        for stages in known:
            for at in range(self._count):
                names = enumerate(self._blocks.names)
                self._add(at, [mask_of(block for block, (name, *_) in names if stages[name] <= at)])
        for line in self.lines:
            for at, size in enumerate(line.partition(self._count)):
                self._add(at, [mask_of(line.order[:size])])
        if (chain := self._chain(None)) is None:
            return None
        limit = self._blocks.total + 1
        while (kept := max(target, chain.worst)) < limit:
            limit = kept
            self._add_windows(limit)
            self._add_between(chain, limit)
            chain = self._chain(None) or chain
        chain = self._chain(limit) or chain
        for _ in range(_ROUNDS):
            self._add_between(chain, limit)
            better = self._chain(limit) or chain
            if (better.sent, better.worst) == (chain.sent, chain.worst):
                break
            chain = better
        return [cut.inside for cut in chain.cuts[1:-1]]

    def places(self) -> list[int]:
        """The block after which each of the most cuts lies that one order of the graph has."""
        line = max(self.lines, key=lambda line: len(line.places()))
        return [line.order[size - 1] for size in line.places()]

    def _add_windows(self, limit: int) -> None:
        """Collect the cheapest cuts for every place from which stages of this cost lead to both ends."""
        work = self._blocks.works.bit_count()
        for at in range(self._count):
            before, after = at + 1, self._count - at
            costs = self._blocks.total - after * limit, before * limit
            for line in self.lines:
                windows = line.windows(costs, (before, work - after), _HALVINGS)
                self._add(at, [self._cheapest(line, *window) for window in windows])

    def _add_between(self, chain: Chain, limit: int) -> None:
        """Collect for each cut the cheapest between its neighbors; what crosses these is sent anyway."""
        for at in range(self._count):
            last, after = chain.cuts[at], chain.cuts[at + 2]
            costs = after.cost - limit, last.cost + limit
            works = [(cut.inside & self._blocks.works).bit_count() for cut in (last, after)]
            paid = last.crossing | after.crossing
            for line in self.lines:
                order = sorted(line.order, key=lambda block: _side(block, last, after))
                between = Line(self._blocks, order)
                windows = between.windows(costs, (works[0] + 1, works[1] - 1), 2)
                self._add(at, [self._cheapest(between, *window, paid) for window in windows])
            self._add(at, self._blocks.beside(chain.cuts[at + 1].inside))

    def _cheapest(self, line: Line, inner: int, outer: int, paid: frozenset[int] = frozenset()) -> int:
        first = mask_of(line.order[:inner])
        return self._blocks.cheapest(first, first | mask_of(line.order[inner:outer]), paid)

    def _add(self, at: int, found: Iterable[int]) -> None:
        """Collect cuts for one place; what nothing crosses is none."""
        for inside in found:
            if inside not in self._pools[at] and (crossing := self._blocks.crossing(inside)):
                self._pools[at][inside] = Cut(inside, self._blocks.cost(inside), crossing)

    def _chain(self, limit: int | None) -> Chain | None:
        """The chain that sends least of those whose stages cost at most `limit`; if None, the best balanced.

        It has a cut of each pool, with some work between any two. O(M^2) for pools of M cuts.
        """
        chains = [Chain((self._start,))]
        for pool in [*self._pools, {self._end.inside: self._end}]:
            longer: list[Chain] = []
            for cut in pool.values():
                options = [self._longer(chain, cut) for chain in chains if self._nested(chain.cuts[-1], cut)]
                kept = [each for each in options if limit is None or each.worst <= limit]
                if kept:
                    longer.append(min(kept, key=_by_balance if limit is None else _by_bytes))
            chains = longer
        return chains[0] if chains else None

    def _nested(self, one: Cut, other: Cut) -> bool:
        return not one.inside & ~other.inside and bool(other.inside & ~one.inside & self._blocks.works)

    def _longer(self, chain: Chain, cut: Cut) -> Chain:
        last = chain.cuts[-1]
        sent = sum(self._blocks.crossers[at].bytes for at in cut.crossing - last.crossing)
        return Chain((*chain.cuts, cut), chain.sent + sent, max(chain.worst, cut.cost - last.cost))


def _side(block: int, one: Cut, other: Cut) -> int:
    """0 for a block before both cuts, 1 for one between them, 2 for one after both."""
    return 2 - (one.inside >> block & 1) - (other.inside >> block & 1)


def _by_bytes(chain: Chain) -> tuple[int, int]:
    return chain.sent, chain.worst


def _by_balance(chain: Chain) -> tuple[int, int]:
    return chain.worst, chain.sent
