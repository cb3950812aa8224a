"""Cut where one value alone crosses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from dni_fx.policies.base import Policy
from dni_fx.policies.partition import best_plan, reads_of
from passes import Plan

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Bottleneck(Policy):
    """The best balanced of the plans in which one value crosses each cut: one synthesizer a cut.

    `cost` is what is balanced, as for `balanced`.
    """

    name = "bottleneck"

    stages: int = 2
    cost: str = "flops"

    @property
    @override
    def reads(self) -> frozenset[str]:
        return reads_of(self.cost)

    @override
    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        instead = "use balanced, which cuts wider if it must"
        return best_plan(self, flow, self.stages, self.cost, 1, False, instead)
