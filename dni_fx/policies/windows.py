"""An order of the blocks of a graph, and the prefixes of it between which cheap cuts may lie."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from passes.blocks import Blocks
from passes.masks import bits_of


class Line:
    """The blocks in one order, and what every prefix of it costs, works and sends. O(V + E)."""

    def __init__(self, blocks: Blocks, order: Sequence[int]) -> None:
        self.order = order
        self.cost = [0, *accumulate(blocks.costs(order))]
        self.works = [0, *accumulate(blocks.works >> block & 1 for block in order)]
        spot = {block: at for at, block in enumerate(order)}
        sent = [0] * (len(order) + 2)
        open_ = [0] * (len(order) + 2)
        for value in blocks.crossers:
            start = spot[value.home] + 1
            stop = max(spot[reader] for reader in bits_of(value.readers)) + 1
            for sums, one in ((sent, value.bytes), (open_, 1)):
                sums[start] += one
                sums[stop] -= one
        self.sent, self.open = list(accumulate(sent)), list(accumulate(open_))

    def places(self) -> list[int]:
        """Sizes of prefixes that something crosses, one for each amount of work: the one that sends least."""
        best: dict[int, int] = {}
        for size in range(1, len(self.order)):
            work = self.works[size]
            admitted = self.open[size] and 0 < work < self.works[-1]
            if admitted and self.sent[size] < self.sent[best.setdefault(work, size)]:
                best[work] = size
        return list(best.values())

    def partition(self, count: int) -> list[int]:
        """So many of `places` that the costliest stage between them costs least; none if there are too few.

        O(V log(cost)): a limit is halved until the stages that are as long as it allows no longer suffice.
        """
        places = self.places()
        if len(places) < count:
            return []
        low, high = 0, self.cost[-1]
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._within(middle, places, count) else (middle + 1, high)
        return self._within(high, places, count)

    def _within(self, limit: int, places: list[int], count: int) -> list[int]:
        """So many places, each as late as a limit of a stage's cost allows; none if they do not suffice."""
        costs = [self.cost[size] for size in places]
        chosen: list[int] = []
        at, spent = -1, 0
        for left in reversed(range(count)):
            next_ = min(bisect_right(costs, spent + limit) - 1, len(places) - 1 - left)
            if next_ <= at:
                return []
            at, spent = next_, costs[next_]
            chosen.append(places[at])
        return chosen if self.cost[-1] - spent <= limit else []

    def windows(self, costs: tuple[int, int], works: tuple[int, int], halvings: int) -> list[tuple[int, int]]:
        """Sizes of the first and the last prefix within a range of costs that hold so many blocks that work.

        The same for the halves of the range, their halves, and so on.
        """
        found: list[tuple[int, int]] = []
        first, last = bisect_left(self.works, works[0]), bisect_right(self.works, works[1]) - 1
        for halving in range(halvings + 1):
            steps = [costs[0] + (costs[1] - costs[0]) * step // 2**halving for step in range(2**halving + 1)]
            for start, stop in pairwise(steps):
                inner = max(first, bisect_left(self.cost, start))
                outer = min(last, bisect_right(self.cost, stop) - 1)
                if inner <= outer:
                    found.append((inner, outer))
        return list(dict.fromkeys(found))
