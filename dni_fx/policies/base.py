"""What a policy is."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from dni_fx.policies.steps import in_time
from passes import Named, Plan
from passes.constraints import constrained, values_named
from passes.placement import join

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Policy(Named):
    """How to choose where to cut. Reads the dataflow, touches no tensor, returns a plan.

    Any policy takes constraints. Each item of `together` names values that share a stage, and no cut lies
    after a value that `avoid` names. An item is the path of a module, for all that happens inside of it,
    an anchor, or a pattern of either with `*`; `a&b` are the values of both. With `tied`, all that read
    one parameter share a stage, as they must if stages go to processes.

    Of the values that an item of `joint` names, those that one stage sends to the same later stages cross as
    one boundary, with one synthesizer that sees and guesses for all of them (an LSTM cell's h and c).

    With `time`, the state of all recurrent layers and unrolled loops is cut after so many steps, too.
    """

    together: tuple[str, ...] = field(default=(), kw_only=True)
    avoid: tuple[str, ...] = field(default=(), kw_only=True)
    tied: bool = field(default=False, kw_only=True)
    joint: tuple[str, ...] = field(default=(), kw_only=True)
    time: int = field(default=0, kw_only=True)

    @property
    def reads(self) -> frozenset[str]:
        """What must have been added to the dataflow: `seconds` if it was measured. Nothing, by default."""
        return frozenset()

    @property
    def under(self) -> str:
        """What to say of the constraints in a refusal; nothing where there are none."""
        given = [
            f"{name}={'+'.join(items)}" for name in ("together", "avoid") if (items := getattr(self, name))
        ]
        given += ["tied=true"] if self.tied else []
        return f" under {' and '.join(given)}" if given else ""

    @abc.abstractmethod
    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        """A stage for every computed value of a dataflow that has the constraints in it."""

    @final
    def plan(self, flow: nx.DiGraph[str]) -> Plan:
        """A stage for every computed value of `passes.dataflow`; the same graph gets the same plan.

        Raises:
            PlanError: the graph cannot be cut as asked; says what it has and what to ask for.
            UnknownNameError: a constraint names nothing in this graph.
        """
        plan = self.choose(constrained(flow, self.together, self.avoid, self.tied))
        plan = join(plan, flow, values_named(flow, self.joint).values()) if self.joint else plan
        return in_time(plan, flow, self.time) if self.time else plan
