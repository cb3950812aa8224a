"""Cut the state of recurrent nets every so many steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from dni_fx.policies.base import Policy
from dni_fx.policies.steps import in_time
from passes import Plan
from passes.dataflow import carrying
from passes.placement import plan_of

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Time(Policy):
    """One stage, in which the state of recurrent layers and of unrolled loops is cut every so many steps.

    What a step leaves for the next one gets a synthetic gradient after each `every`-th step, so a loss is
    felt up to `every` steps back by its true gradient, and further back by what the synthesizer knows. A
    layer is called by the path of its module; so is a loop, by that of the module that reads the state.
    `module` are patterns of such names, if not all are to be cut. All cuts of one layer or loop share
    one synthesizer.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, section 3.2.
    """

    name = "time"

    every: int = 16
    module: tuple[str, ...] = ()

    @override
    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        """Cut the state of everything that the patterns mean.

        Raises:
            PlanError: there is nothing to cut, or it cannot be cut; says what was looked for.
            passes.UnknownNameError: a pattern matches nothing.
        """
        plan = plan_of(flow, dict.fromkeys(carrying(flow), 0), str(self))
        return in_time(plan, flow, self.every, self.module)
