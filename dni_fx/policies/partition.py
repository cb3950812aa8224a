"""The best sequence of nested cuts, by dynamic programming."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from dni_fx.errors import PlanError
from passes import Plan
from passes.dataflow import carrying
from passes.frontiers import Frontier, working
from passes.placement import before, plan_of

if TYPE_CHECKING:
    import networkx as nx
    from numpy.typing import NDArray

    from dni_fx.policies.base import Policy

    Numbers = NDArray[np.int64]

_NEVER = np.iinfo(np.int64).max
_SHOWN = 8


def best_plan(
    policy: Policy, flow: nx.DiGraph[str], stages: int, choices: Iterable[list[Frontier]], instead: str
) -> Plan:
    """The best plan of `stages` stages by the first of the lists of cuts that has one.

    Best is the least cost of the costliest stage, then the fewest bytes that cross, each value counted
    once, then the later cuts. Cost is forward FLOPs, or gradient-carrying values where none has FLOPs.
    Some work is done in every stage. `instead` says what else a user can do.

    Raises:
        PlanError: no list has enough cuts, one after another; says where the last one has some.
    """
    if stages < 1:
        raise PlanError(f"{policy} asks for {stages} stages; a model has at least one.")
    if stages == 1:
        return plan_of(flow, dict.fromkeys(carrying(flow), 0), str(policy))
    if not carrying(flow):
        raise PlanError(
            f"{policy} asks for {stages} stages, and no gradient runs through this graph, so there is "
            "nothing to decouple: no value depends on an input and on a trainable parameter and leads to the "
            "output. Unfreeze a parameter, or annotate the graph with shapes if it has not been."
        )
    search = None
    for cuts in choices:
        search = _Search(flow, cuts)
        if (best := search.best(stages - 1)) is not None:
            return plan_of(flow, _stages(flow, best), str(policy))
    raise PlanError(_too_many(policy, flow, stages, [] if search is None else search.most(), instead))


def _stages(flow: nx.DiGraph[str], cuts: list[Frontier]) -> dict[str, int]:
    """For each carrying value, how many of the nested cuts it lies after."""
    return {name: sum(not cut.inside >> at & 1 for cut in cuts) for at, name in enumerate(carrying(flow))}


def _too_many(
    policy: Policy, flow: nx.DiGraph[str], stages: int, places: list[Frontier], instead: str
) -> str:
    names = [" + ".join(flow.nodes[name]["anchor"] for name in cut.values) for cut in places]
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return (
        f"{policy} asks for {stages} stages, and this graph can be cut in {len(names)} places one after "
        f"another ({shown or 'none'}). Ask for at most {len(names) + 1}, or {instead}."
    )


class _Search:
    """Cuts from small to large, and before each the smaller ones that leave some work between."""

    def __init__(self, flow: nx.DiGraph[str], cuts: list[Frontier]) -> None:
        self.cuts = sorted(cuts, key=lambda cut: (cut.inside.bit_count(), cut.inside))
        self.cost, self.total = _costs(flow, self.cuts)
        self.bytes = _Bytes(flow, self.cuts)
        self.smaller = _smaller(flow, self.cuts)

    def best(self, count: int) -> list[Frontier] | None:
        """The best `count` nested cuts, if there are so many. O(count * M^2)."""
        if not self.cuts:
            return None
        worst = self.cost
        for _ in range(count - 1):
            worst = self._least(
                worst, lambda past, at, smaller: np.maximum(past, self.cost[at] - self.cost[smaller])
            )
        limit = np.maximum(worst, self.total - self.cost).min()
        return None if worst.min() == _NEVER else self._fewest_bytes(count, int(limit))

    def most(self) -> list[Frontier]:
        """One longest sequence of nested cuts."""
        length = [0] * len(self.cuts)
        back = [-1] * len(self.cuts)

        def rank(at: int) -> tuple[int, int, int]:
            return length[at], -len(self.cuts[at].values), at

        for at, smaller in enumerate(self.smaller):
            if len(smaller):
                back[at] = max(smaller.tolist(), key=rank)
                length[at] = length[back[at]] + 1
        at = max(range(len(self.cuts)), key=rank, default=-1)
        found: list[Frontier] = []
        while at >= 0:
            found.append(self.cuts[at])
            at = back[at]
        return found[::-1]

    def _fewest_bytes(self, count: int, limit: int) -> list[Frontier]:
        """The nested cuts that send least of those whose stages cost at most `limit` each."""
        sent = np.where(self.cost <= limit, self.bytes.of, _NEVER)
        backs: list[Numbers] = []
        for _ in range(count - 1):
            back = np.full(len(self.cuts), -1)
            sent = self._least(sent, lambda past, at, smaller: self._sent(past, at, smaller, limit), back)
            backs.append(back)
        sent = np.where(self.total - self.cost <= limit, sent, _NEVER)
        places = [_last_least(sent)]
        for back in reversed(backs):
            places.append(int(back[places[-1]]))
        return [self.cuts[at] for at in reversed(places)]

    def _sent(self, past: Numbers, at: int, smaller: Numbers, limit: int) -> Numbers:
        new = past + self.bytes.of[at] - self.bytes.shared(at, smaller)
        return np.where(self.cost[at] - self.cost[smaller] <= limit, new, _NEVER)

    def _least(
        self, past: Numbers, then: Callable[[Numbers, int, Numbers], Numbers], back: Numbers | None = None
    ) -> Numbers:
        """The least of `then` over the smaller cuts, for each cut; `back` notes where it was found."""
        least = np.full(len(self.cuts), _NEVER)
        for at, smaller in enumerate(self.smaller):
            reached = smaller[past[smaller] < _NEVER]
            if len(reached):
                values = then(past[reached], at, reached)
                best = _last_least(values)
                least[at] = values[best]
                if back is not None:
                    back[at] = reached[best]
        return least


class _Bytes:
    """How many bytes cross each cut, and how many of them crossed a cut before."""

    def __init__(self, flow: nx.DiGraph[str], cuts: list[Frontier]) -> None:
        self._values = [cut.values for cut in cuts]
        self._size = {name: int(flow.nodes[name]["bytes"]) for names in self._values for name in names}
        self._crosses = {name: np.zeros(len(cuts), dtype=bool) for name in self._size}
        for at, names in enumerate(self._values):
            for name in names:
                self._crosses[name][at] = True
        self.of = np.array(
            [sum(map(self._size.__getitem__, names)) for names in self._values], dtype=np.int64
        )

    def shared(self, at: int, others: Numbers) -> Numbers:
        """Bytes that cross both a cut and each of some others."""
        both = np.zeros(len(others), dtype=np.int64)
        for name in self._values[at]:
            both += self._size[name] * self._crosses[name][others]
        return both


def _costs(flow: nx.DiGraph[str], cuts: list[Frontier]) -> tuple[Numbers, int]:
    """What lies before each cut costs, and the whole graph."""
    places = before(flow, [cut.inside for cut in cuts])
    counted = not any(flow.nodes[name]["flops"] for name in carrying(flow))
    cost = np.zeros(len(cuts), dtype=np.int64)
    total = 0
    for name, flags in places.items():
        facts = flow.nodes[name]
        if one := int(facts["carries"] if counted else facts["flops"]):
            cost += one * flags
            total += one
    return cost, total


def _smaller(flow: nx.DiGraph[str], cuts: list[Frontier]) -> list[Numbers]:
    """For each cut the places of those inside it that leave some work between the two."""
    place = {name: at for at, name in enumerate(carrying(flow))}
    works = sum(1 << place[name] for name in working(flow))
    work = np.array([(cut.inside & works).bit_count() for cut in cuts], dtype=np.int64)
    size = (len(place) // 64 + 1) * 8
    packed = b"".join(cut.inside.to_bytes(size, "little") for cut in cuts)
    rows = np.frombuffer(packed, dtype=np.uint64).reshape(len(cuts), size // 8)
    found: list[Numbers] = []
    for at in range(len(cuts)):
        beyond = (rows[:at] & ~rows[at]).any(axis=1)
        found.append(np.flatnonzero(~beyond & (work[:at] < work[at])))
    return found


def _last_least(values: Numbers) -> int:
    """The place of the least value, the last one of several."""
    return len(values) - 1 - int(np.argmin(values[::-1]))
