"""Cut so that the stages cost the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from dni_fx.errors import PlanError
from dni_fx.policies.base import Policy
from dni_fx.policies.partition import best_plan, reads_of
from passes import Plan

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Balanced(Policy):
    """The plan whose costliest stage costs least, and that sends the fewest bytes of those.

    `cost` is what is balanced: `flops` of the forward and the backward pass, measured `time`, or the bytes
    of `parameters`. Up to `width` values cross a cut. A graph that cannot be cut so often (a U-Net, a
    DenseNet) gets the narrowest width at which enough cuts are found.

    The costliest stage is the least there is among all plans of this width, as far as `frontiers` finds
    all cuts: for widths 1 and 2, and for 3 in graphs of up to 600 gradient-carrying values, if no more than
    three branches end in outputs of their own. Of wider cuts it considers those of few values that are above
    no other, and those that come first in graph order, or in an order that finishes one branch before the
    next. Only the latter are considered in graphs of more than 12,000 such values, and where more than 2,500
    cuts could be part of the best plan, a sample of these. A weight recomputed in several stages counts once.
    """

    name = "balanced"

    stages: int = 2
    width: int = 2
    cost: str = "flops"

    @property
    @override
    def reads(self) -> frozenset[str]:
        return reads_of(self.cost)

    @override
    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        if self.width < 1:
            raise PlanError(f"{self} lets {self.width} values cross a cut; at least one must.")
        instead = "name the places yourself with at"
        return best_plan(self, flow, self.stages, self.cost, self.width, True, instead)
