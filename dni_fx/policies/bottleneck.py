"""Cut where one value alone crosses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from dni_fx.policies.base import Policy
from dni_fx.policies.partition import best_plan
from passes import Plan
from passes.frontiers import frontiers

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Bottleneck(Policy):
    """The best balanced of the plans in which one value crosses each cut: one synthesizer a cut."""

    name = "bottleneck"

    stages: int = 2

    @override
    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        return best_plan(
            self, flow, self.stages, [frontiers(flow, 1)], "use balanced, which cuts wider if it must"
        )
