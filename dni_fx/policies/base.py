"""What a policy is."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes import Named, Plan

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Policy(Named):
    """How to choose where to cut. Reads the dataflow, touches no tensor, returns a plan."""

    @abc.abstractmethod
    def plan(self, flow: nx.DiGraph[str]) -> Plan:
        """A stage for every computed value of `passes.dataflow`; the same graph gets the same plan.

        Raises:
            PlanError: the graph cannot be cut as asked; says what it has and what to ask for.
        """
