"""Cut so that the stages cost the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from dni_fx.errors import PlanError
from dni_fx.policies.base import Policy
from dni_fx.policies.partition import best_plan
from passes import Plan
from passes.frontiers import Frontier, frontiers, prefixes

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Balanced(Policy):
    """The plan whose costliest stage costs least, and that sends the fewest bytes of those.

    Up to `width` values cross a cut. For widths 1 and 2 every such cut is considered. Wider ones
    are considered where graph order has them: all up to a certain value before the cut, the rest after it.
    A graph that cannot be cut so often (a U-Net, a DenseNet) gets the narrowest width at which it can.
    """

    name = "balanced"

    stages: int = 2
    width: int = 2

    @override
    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        if self.width < 1:
            raise PlanError(f"{self} lets {self.width} values cross a cut; at least one must.")
        return best_plan(self, flow, self.stages, self._choices(flow), "name the places yourself with at")

    def _choices(self, flow: nx.DiGraph[str]) -> Iterator[list[Frontier]]:
        """The cuts to choose from, ever wider ones."""
        narrow = frontiers(flow, min(self.width, 2))
        wide = prefixes(flow)
        for width in sorted({self.width, 2} | {len(cut.values) for cut in wide}):
            if width < self.width:
                continue
            if self.width == 1 and width == 2:
                narrow = frontiers(flow, 2)
            known = {cut.inside for cut in narrow}
            yield narrow + [cut for cut in wide if len(cut.values) <= width and cut.inside not in known]
