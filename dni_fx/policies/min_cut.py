"""Cut where the fewest bytes cross, however many values that are, between stages of about one cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from dni_fx.errors import PlanError
from dni_fx.policies.base import Policy
from dni_fx.policies.nested import Search
from dni_fx.policies.partition import (
    Choices,
    best_stages,
    cheapest_stages,
    cost_of,
    reads_of,
    refuse_impossible,
    refuse_unknown_cost,
)
from passes import Plan
from passes.blocks import Blocks
from passes.dataflow import carrying
from passes.frontiers import working
from passes.placement import plan_of

if TYPE_CHECKING:
    import networkx as nx

_SHOWN = 8


@dataclass(frozen=True)
class MinCut(Policy):
    """No stage costs over (1 + `slack`) times the mean where such a plan is found, and few bytes cross.

    Any number of values may cross, and each counts once: this is for graphs that no narrow cut divides,
    U-Nets and DenseNets. If no plan that is found keeps the limit, the limit is the least that one of them
    keeps. That is never above what cutting the sequence of the graph's nodes as evenly as possible gives.

    A cut is the cheapest of all down-sets between two prefixes of an order of the graph, by
    `networkx.minimum_cut`. Prefixes at several distances in up to five orders are tried, the best sequence of
    the cuts found is taken by dynamic programming, and each cut is sought again between its neighbors. The
    best plans by cuts of one or two values are among what is chosen from.
    For two stages this is exact between the prefixes of the graph's own order that keep the limit, where the
    values that carry gradients hang together: no down-set between two of those sends fewer bytes.
    Otherwise it is a search that may miss the best plan.
    """

    name = "min-cut"

    stages: int = 2
    slack: float = 0.1
    cost: str = "flops"

    @property
    @override
    def reads(self) -> frozenset[str]:
        return reads_of(self.cost)

    @override
    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        refuse_impossible(self, flow, self.stages)
        refuse_unknown_cost(self, self.cost)
        if not 0 <= self.slack < math.inf:
            raise PlanError(f"{self} has a slack of {self.slack}; it is a share of the mean cost, 0 or more.")
        if self.stages == 1:
            return plan_of(flow, dict.fromkeys(carrying(flow), 0), str(self))
        cost, count = cost_of(self, flow, self.cost), self.stages - 1
        blocks = Blocks(flow, cost)
        is_possible = count < len(working(flow))
        search = Search(blocks, self.stages if is_possible else 2)
        # More slack than a stage for each stage asks for nothing else.
        target = int((1 + min(self.slack, self.stages)) * blocks.total / self.stages)
        narrow = _narrow(Choices(flow, cost, 2), count, target) if is_possible else []
        if not is_possible or (cuts := search.best(target, narrow)) is None:
            places = [str(flow.nodes[blocks.names[block][-1]]["anchor"]) for block in search.places()]
            raise PlanError(self._too_many(places))
        stage = {
            name: sum(not cut >> block & 1 for cut in cuts)
            for block, names in enumerate(blocks.names)
            for name in names
        }
        return plan_of(flow, stage, str(self))

    def _too_many(self, places: list[str]) -> str:
        asked = f"{self} asks for {self.stages} stages, and this graph{self.under} can be cut"
        if not places:
            return f"{asked} nowhere."
        shown = ", ".join(places[:_SHOWN])
        more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        count = "1 place" if len(places) == 1 else f"{len(places)} places one after another"
        return f"{asked} in {count} (after {shown}{more}). Ask for at most {len(places) + 1} stages."


def _narrow(choices: Choices, count: int, target: int) -> list[dict[str, int]]:
    """The plans by cuts of one or two values that balance best, and that send least within the target."""
    found = [best_stages(choices, count), cheapest_stages(choices, count, target)]
    return [stages for stages in found if stages is not None]
