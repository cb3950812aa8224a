"""The best plan of so many stages, from the cuts that a graph has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dni_fx.errors import PlanError
from dni_fx.policies.search import Search
from passes import Plan
from passes.costs import COSTS
from passes.cuts import Cuts, Masked, Ordered
from passes.dataflow import carrying, computed
from passes.frontiers import Frontier, frontiers, working
from passes.orders import Prefixes, graph_order, lazy_order
from passes.placement import Placement, plan_of

if TYPE_CHECKING:
    import networkx as nx
    from numpy.typing import NDArray

    from dni_fx.policies.base import Policy

MOST = 2500
"""Cuts that are searched at once; of more, those that send least among neighbors."""
LARGE = 12_000
"""Carrying values beyond which only the cuts of two orders are considered: masks of all would not fit."""
_SHOWN = 8
_WIDEST_EVERYWHERE = 3
"""Width up to which a graph that needs wider cuts is searched everywhere, beyond the width asked for."""
_WORTHWHILE = 0.9
"""Share of the cuts that may be left for another search among them to be worth its time."""


def cost_of(policy: Policy, flow: nx.DiGraph[str], kind: str) -> dict[str, int]:
    """What each computed node costs; where nothing does, one for each that a gradient runs through.

    Raises:
        PlanError: there is no such kind of cost, or it is not known of this graph.
    """
    refuse_unknown_cost(policy, kind)
    cost = COSTS[kind](flow)
    if any(cost[name] for name in carrying(flow)):
        return cost
    return {name: int(flow.nodes[name]["carries"]) for name in computed(flow)}


def reads_of(kind: str) -> frozenset[str]:
    """What has to be added to the dataflow before this kind of cost is known."""
    return frozenset({"seconds"} if kind == "time" else ())


def refuse_unknown_cost(policy: Policy, kind: str) -> None:
    """Do nothing if there is such a kind of cost.

    Raises:
        PlanError: there is none; says which there are.
    """
    if kind not in COSTS:
        raise PlanError(f"{policy}: cost is {', '.join(sorted(COSTS))}, not {kind!r}.")


def refuse_impossible(policy: Policy, flow: nx.DiGraph[str], stages: int) -> None:
    """Do nothing if a graph can be cut at all, or need not be.

    Raises:
        PlanError: it cannot, and is asked to be.
    """
    if stages < 1:
        raise PlanError(f"{policy} asks for {stages} stages; a model has at least one.")
    if stages > 1 and not carrying(flow):
        raise PlanError(
            f"{policy} asks for {stages} stages, and no gradient runs through this graph, so there is "
            "nothing to decouple: no value depends on an input and on a trainable parameter and leads to the "
            "output. Unfreeze a parameter, or annotate the graph with shapes if it has not been."
        )


class Choices:
    """The cuts of a graph that a policy may choose from: those that up to `width` values cross.

    Up to the width that was asked for, and up to three, they are looked for everywhere; wider ones in two
    orders of the graph.
    """

    def __init__(self, flow: nx.DiGraph[str], cost: dict[str, int], width: int) -> None:
        self.flow, self.cost, self.total, self.width = flow, cost, sum(cost.values()), width
        self.placement = Placement(flow)
        place = {name: at for at, name in enumerate(flow)}
        units = self.placement.units
        self._orders = [
            Ordered(Prefixes(self.placement, order(units, place), cost), self.total)
            for order in (lazy_order, graph_order)
        ]
        self.sizes = {name: int(flow.nodes[name]["bytes"]) for name in carrying(flow)}
        self._narrow: list[Frontier] | None = None
        self._cuts = self._found()

    def chains(self) -> list[Ordered]:
        """The cuts of each order."""
        return [order.take(np.flatnonzero(order.width <= self.width)) for order in self._orders]

    def cuts(self) -> list[Cuts]:
        """The lists of cuts to search: one with all there are or, for a large graph, one for each order."""
        return self._cuts

    def widen(self) -> bool:
        """Admit cuts of the next width that there are any of. Returns whether there is one."""
        wider = [int(each) for order in self._orders for each in order.width if each > self.width]
        if self.width >= _WIDEST_EVERYWHERE and not wider:
            return False
        if self.width < _WIDEST_EVERYWHERE:
            self.width += 1
            self._narrow = None
        else:
            self.width = min(wider)
        self._cuts = self._found()
        return True

    def _found(self) -> list[Cuts]:
        chains = self.chains()
        if len(self.sizes) > LARGE:
            return list(chains)
        if self._narrow is None:
            self._narrow = frontiers(self.flow, self.width)
        found = {cut.inside: cut for chain in chains for cut in chain.frontiers()}
        found |= {cut.inside: cut for cut in self._narrow}
        return [Masked(self.placement, list(found.values()), self.cost, self.total)]


def best_plan(
    policy: Policy, flow: nx.DiGraph[str], stages: int, kind: str, width: int, wider: bool, instead: str
) -> Plan:
    """The best plan of `stages` stages by cuts that up to `width` values cross.

    Best is the least cost of the costliest stage, then the fewest bytes that cross, each value counted
    once, then the later cuts. Some work is done in every stage. If there are not enough such cuts, and wider
    ones may do, it is the best by cuts of the least width that has enough. `instead` says what else a user
    can do.

    Raises:
        PlanError: there are not enough cuts, one after another; says where the widest are.
    """
    refuse_impossible(policy, flow, stages)
    refuse_unknown_cost(policy, kind)
    if stages == 1:
        return plan_of(flow, dict.fromkeys(carrying(flow), 0), str(policy))
    choices = Choices(flow, cost_of(policy, flow, kind), width)
    if stages > len(working(flow)):
        raise PlanError(_too_many(policy, choices, stages, instead))
    while (found := best_stages(choices, stages - 1)) is None:
        if not wider or not choices.widen():
            raise PlanError(_too_many(policy, choices, stages, instead))
    return choices.placement.plan(found, str(policy))


def best_stages(choices: Choices, count: int) -> dict[str, int] | None:
    """A stage for each carrying value, by the best `count` cuts, if there are so many.

    The cuts of an order are searched first, which is quick; what is then left to search are cuts that a
    better plan can have, because so much lies before them that no stage need cost more.
    """
    known = [found for chain in choices.chains() if (found := best_of_chain(chain, count)) is not None]
    limit, keep = min(known, default=(None, []))
    found = [_searched(choices, cuts, count, limit, keep) for cuts in choices.cuts()]
    there = [each for each in found if each is not None]
    return min(there, key=lambda each: each[:2])[2] if there else None


def cheapest_stages(choices: Choices, count: int, limit: int) -> dict[str, int] | None:
    """A stage for each carrying value, by the `count` cuts that send least and keep stages within a limit."""
    for cuts in choices.cuts():
        few = within(cuts, count, limit).thinned(MOST)
        if (places := Search(few, choices.sizes, {}).fewest_bytes(count, limit)) is not None:
            return few.stages(places)
    return None


def _searched(
    choices: Choices, cuts: Cuts, count: int, limit: int | None, keep: list[int]
) -> tuple[int, int, dict[str, int]] | None:
    """Least cost of the costliest stage, bytes, and a stage for each carrying value."""
    if limit is not None:
        cuts = within(cuts, count, limit)
    while True:
        few = cuts.thinned(max(MOST, 4 * count), keep)
        search = Search(few, choices.sizes, {})
        if (least := search.least(count)) is None:
            return None
        nearer = within(cuts, count, least)
        if len(few) == len(cuts) or len(nearer) > _WORTHWHILE * len(cuts):
            break
        cuts = nearer
    places = search.fewest_bytes(count, least)
    assert places is not None
    sent = {name for at in places for name in few.values(at)}
    return least, sum(choices.sizes[name] for name in sent), few.stages(places)


def within(cuts: Cuts, count: int, limit: int) -> Cuts:
    """The cuts that can be one of `count` whose stages cost at most `limit`, by what lies before them.

    Before the j-th of them lie j stages, and after it the rest.
    """
    possible = np.zeros(len(cuts), dtype=bool)
    for at in range(1, count + 1):
        possible |= (cuts.cost <= at * limit) & (cuts.cost >= cuts.total - (count + 1 - at) * limit)
    return cuts.take(np.flatnonzero(possible))


def best_of_chain(chain: Ordered, count: int) -> tuple[int, list[int]] | None:
    """The least cost of the costliest stage that `count` cuts of one order reach, if there are so many.

    And what lies before the cuts that reach it; they may be fewer. O(M + count log(M) log(total)) for M cuts.
    """
    if len(np.unique(chain.work)) < count:
        return None
    low, high = (chain.total + count) // (count + 1), chain.total
    while low < high:
        middle = (low + high) // 2
        if chain.total - _latest(chain.cost, count, middle)[-1] <= middle:
            high = middle
        else:
            low = middle + 1
    return high, _latest(chain.cost, count, high)


def _latest(cost: NDArray[np.int64], count: int, limit: int) -> list[int]:
    """What lies before each of the latest `count` cuts between which no more than the limit lies.

    Where there is none, that is the last one again: another cut never makes a stage cost more.
    """
    before = [0]
    for _ in range(count):
        at = int(np.searchsorted(cost, before[-1] + limit, side="right")) - 1
        before.append(max(before[-1], int(cost[at]) if at >= 0 else 0))
    return before


def _too_many(policy: Policy, choices: Choices, stages: int, instead: str) -> str:
    flow = choices.flow
    cuts = max(choices.cuts(), key=len).thinned(MOST)
    places = Search(cuts, choices.sizes, {}).longest()
    names = [" + ".join(flow.nodes[name]["anchor"] for name in cuts.values(at)) for at in places]
    asked = f"{policy} asks for {stages} stages, and this graph can be cut"
    if not names:
        return (
            f"{asked} nowhere{policy.under}: there is no place where up to {choices.width} values are all "
            f"that crosses, with work before and after it. Ask for 1 stage, or {instead}."
        )
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    places = "1 place" if len(names) == 1 else f"{len(names)} places one after another"
    return f"{asked} in {places}{policy.under} ({shown}). Ask for at most {len(names) + 1}, or {instead}."
