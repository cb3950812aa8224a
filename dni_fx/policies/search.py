"""The best sequence of nested cuts, by dynamic programming."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from passes.cuts import Cuts

    Numbers = NDArray[np.int64]

_NEVER = np.iinfo(np.int64).max


class Search:
    """Sequences of nested cuts that leave some work in every stage. Of equally good ones, the later cuts.

    A stage costs what lies in it, and the price of each value that it is the first to send: `sizes` are the
    bytes of values, `prices` what else it costs to send them. For M cuts, O(M^2) for each of a sequence.
    """

    def __init__(self, cuts: Cuts, sizes: Mapping[str, int], prices: Mapping[str, int]) -> None:
        self.cuts = cuts
        self.smaller = cuts.smaller()
        names = [cuts.values(at) for at in range(len(cuts))]
        self.bytes = _Crossing(names, sizes)
        self.price = _Crossing(names, prices)
        self.first = cuts.cost + self.price.of
        self.last = cuts.total - cuts.cost

    def least(self, count: int) -> int | None:
        """The least cost of the costliest stage that `count` cuts can reach; None if there are too few."""
        worst = self.first
        for _ in range(count - 1):
            worst, _ = self._best(worst, lambda past, at, inner: np.maximum(past, self._between(inner, at)))
        reached = worst < _NEVER
        return int(np.maximum(worst, self.last)[reached].min()) if reached.any() else None

    def fewest_bytes(self, count: int, limit: int) -> list[int] | None:
        """The places of `count` nested cuts that send least, of those whose stages cost at most `limit`.

        Each value is counted once.
        """
        backs: list[Numbers] = []
        sent = self._start(limit)
        for _ in range(count - 1):
            sent, back = self._best(sent, lambda past, at, inner: self._sent(past, inner, at, limit))
            backs.append(back)
        return self._road(sent, backs, limit)

    def fewest_cuts(self, limit: int) -> list[int] | None:
        """The places of the fewest cuts whose stages cost at most `limit`, and of those what sends least."""
        backs: list[Numbers] = []
        sent = self._start(limit)
        while (sent < _NEVER).any():
            if (road := self._road(sent, backs, limit)) is not None:
                return road
            sent, back = self._best(sent, lambda past, at, inner: self._sent(past, inner, at, limit))
            backs.append(back)
        return None

    def longest(self) -> list[int]:
        """The places of one longest sequence of nested cuts, by preference narrow ones."""
        length = [0] * len(self.cuts)
        back = [-1] * len(self.cuts)

        def rank(at: int) -> tuple[int, int, int]:
            return length[at], -int(self.cuts.width[at]), at

        for at, inner in enumerate(self.smaller):
            if len(inner):
                back[at] = max(inner.tolist(), key=rank)
                length[at] = length[back[at]] + 1
        at = max(range(len(self.cuts)), key=rank, default=-1)
        found: list[int] = []
        while at >= 0:
            found.append(at)
            at = back[at]
        return found[::-1]

    def _between(self, inner: Numbers, at: int) -> Numbers:
        """What the stage from each of some cuts to a larger one costs."""
        cost = self.cuts.cost
        return cost[at] - cost[inner] + self.price.new(at, inner)

    def _start(self, limit: int) -> Numbers:
        return np.where(self.first <= limit, self.bytes.of, _NEVER)

    def _sent(self, past: Numbers, inner: Numbers, at: int, limit: int) -> Numbers:
        return np.where(self._between(inner, at) <= limit, past + self.bytes.new(at, inner), _NEVER)

    def _road(self, sent: Numbers, backs: Sequence[Numbers], limit: int) -> list[int] | None:
        """The cuts that lead to the best last one after which a stage within the limit is left."""
        sent = np.where(self.last <= limit, sent, _NEVER)
        if not len(sent) or sent.min() == _NEVER:
            return None
        places = [_last_least(sent)]
        for back in reversed(backs):
            places.append(int(back[places[-1]]))
        return places[::-1]

    def _best(
        self, past: Numbers, then: Callable[[Numbers, int, Numbers], Numbers]
    ) -> tuple[Numbers, Numbers]:
        """For each cut the least of `then` over the smaller ones that were reached, and where that is."""
        least = np.full(len(self.cuts), _NEVER)
        back = np.full(len(self.cuts), -1)
        for at, inner in enumerate(self.smaller):
            reached = inner[past[inner] < _NEVER]
            if len(reached):
                values = then(past[reached], at, reached)
                best = _last_least(values)
                least[at], back[at] = values[best], reached[best]
        return least, back


class _Crossing:
    """What the values that cross each cut weigh, and how much of that crossed a smaller cut before."""

    def __init__(self, names: Sequence[tuple[str, ...]], weight: Mapping[str, int]) -> None:
        self._names = [tuple(name for name in each if weight.get(name)) for each in names]
        self._weight = weight
        self._crosses: dict[str, NDArray[np.bool_]] = {}
        for at, each in enumerate(self._names):
            for name in each:
                self._crosses.setdefault(name, np.zeros(len(names), dtype=bool))[at] = True
        self.of = np.array([sum(weight[name] for name in each) for each in self._names], dtype=np.int64)

    def new(self, at: int, inner: Numbers) -> Numbers:
        """The weight of what crosses a cut and none of some smaller ones, for each of these."""
        new = np.full(len(inner), self.of[at])
        for name in self._names[at]:
            new -= self._weight[name] * self._crosses[name][inner]
        return new


def _last_least(values: Numbers) -> int:
    """The place of the least value, the last one of several."""
    return len(values) - 1 - int(np.argmin(values[::-1]))
