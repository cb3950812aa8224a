"""Cuts to choose several nested ones from, with what lies before each."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np
from typing_extensions import override

from passes.dataflow import carrying
from passes.frontiers import Frontier, working
from passes.masks import mask_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from passes.orders import Prefixes
    from passes.placement import Placement

    Numbers = NDArray[np.int64]


class Cuts(abc.ABC):
    """Cuts of one graph, none of them inside an earlier one.

    For each cut, `cost` is what lies before it and `work` how many working values do; `width` is how many
    values cross it, and `sent` their bytes. `total` is what the whole graph costs.
    """

    cost: Numbers
    work: Numbers
    width: Numbers
    sent: Numbers
    total: int

    def __len__(self) -> int:
        return len(self.cost)

    @abc.abstractmethod
    def values(self, at: int) -> tuple[str, ...]:
        """The values that cross one of the cuts."""

    @abc.abstractmethod
    def smaller(self) -> list[Numbers]:
        """For each cut the places of those inside it that leave some work between the two."""

    @abc.abstractmethod
    def take(self, places: Numbers) -> Self:
        """Some of the cuts, by their places from low to high."""

    @abc.abstractmethod
    def stages(self, places: Sequence[int]) -> dict[str, int]:
        """For each carrying value, how many of these nested cuts it lies after."""

    def thinned(self, most: int, keep: Sequence[int] = ()) -> Self:
        """About `most` of the cuts: of each stretch the one that sends least, and those of costs to keep."""
        if len(self) <= most:
            return self
        by_cost = np.argsort(self.cost, kind="stable")
        edges = [len(self) * slot // most for slot in range(most + 1)]
        narrowest = (by_cost[a:b][np.argmin(self.sent[by_cost[a:b]])] for a, b in pairwise(edges))
        kept = np.flatnonzero(np.isin(self.cost, keep))
        return self.take(np.unique([*narrowest, *kept]))


class Masked(Cuts):
    """Cuts as masks of what lies before them; they need not be nested."""

    def __init__(
        self, placement: Placement, frontiers: Sequence[Frontier], cost: Mapping[str, int], total: int
    ) -> None:
        flow = placement.flow
        works = set(working(flow))
        self.names = carrying(flow)
        mask = mask_of(at for at, name in enumerate(self.names) if name in works)
        self.found = sorted(frontiers, key=lambda cut: (cut.inside.bit_count(), cut.inside))
        self.cost = placement.costs_before([cut.inside for cut in self.found], cost)
        self.work = np.array([(cut.inside & mask).bit_count() for cut in self.found], dtype=np.int64)
        self.width = np.array([len(cut.values) for cut in self.found], dtype=np.int64)
        sent = [sum(flow.nodes[name]["bytes"] for name in cut.values) for cut in self.found]
        self.sent = np.array(sent, dtype=np.int64)
        self.total = total

    @override
    def values(self, at: int) -> tuple[str, ...]:
        return self.found[at].values

    @override
    def smaller(self) -> list[Numbers]:
        size = (len(self.names) // 64 + 1) * 8
        packed = b"".join(cut.inside.to_bytes(size, "little") for cut in self.found)
        rows = np.frombuffer(packed, dtype=np.uint64).reshape(len(self), size // 8)
        found: list[Numbers] = []
        for at in range(len(self)):
            beyond = (rows[:at] & ~rows[at]).any(axis=1)
            found.append(np.flatnonzero(~beyond & (self.work[:at] < self.work[at])))
        return found

    @override
    def take(self, places: Numbers) -> Masked:
        taken = object.__new__(Masked)
        taken.names, taken.total = self.names, self.total
        taken.found = [self.found[at] for at in places]
        taken.cost, taken.work = self.cost[places], self.work[places]
        taken.width, taken.sent = self.width[places], self.sent[places]
        return taken

    @override
    def stages(self, places: Sequence[int]) -> dict[str, int]:
        masks = [self.found[at].inside for at in places]
        return {name: sum(not mask >> at & 1 for mask in masks) for at, name in enumerate(self.names)}


class Ordered(Cuts):
    """The cuts that one order makes: each has all of the earlier ones inside. Linear in the graph's size."""

    def __init__(self, prefixes: Prefixes, total: int, places: Numbers | None = None) -> None:
        self.prefixes = prefixes
        self.places = prefixes.admissible if places is None else places
        self.cost, self.work = prefixes.cost[self.places], prefixes.work[self.places]
        self.width, self.sent = prefixes.width[self.places], prefixes.sent[self.places]
        self.total = total

    @override
    def values(self, at: int) -> tuple[str, ...]:
        return self.prefixes.values(int(self.places[at]))

    @override
    def smaller(self) -> list[Numbers]:
        # More work is never before an earlier cut.
        return [np.arange(np.searchsorted(self.work, self.work[at])) for at in range(len(self))]

    @override
    def take(self, places: Numbers) -> Ordered:
        return Ordered(self.prefixes, self.total, self.places[places])

    @override
    def stages(self, places: Sequence[int]) -> dict[str, int]:
        after = np.searchsorted(self.places[np.array(places, dtype=np.int64)], self.prefixes.position)
        return dict(zip(self.prefixes.names, after.tolist(), strict=True))

    def frontiers(self) -> list[Frontier]:
        """The cuts one by one, with their masks."""
        masks = (self.prefixes.mask(int(place)) for place in self.places)
        return [Frontier(self.values(at), mask) for at, mask in enumerate(masks)]
