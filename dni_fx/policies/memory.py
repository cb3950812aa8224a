"""Cut so that each stage fits into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from dni_fx.errors import PlanError
from dni_fx.policies.base import Policy
from dni_fx.policies.partition import MOST, Choices, refuse_impossible
from dni_fx.policies.search import Search
from passes import Plan
from passes.bytes import parse_bytes, show_bytes
from passes.costs import memory, parameters
from passes.dataflow import carrying, computed
from passes.placement import plan_of

if TYPE_CHECKING:
    import networkx as nx


_MANY = 1000


@dataclass(frozen=True)
class Memory(Policy):
    """The fewest stages each of which fits into `limit` by itself, and of those plans what sends least.

    A stage holds its parameters `copies` times (themselves, their gradients and Adam's two running means),
    what autograd saves in it at the batch size of the example, and what learns to guess the gradients of the
    values that it sends first. A parameter counts where it is read first. Up to `width` values cross a cut; a
    graph that no such plan fits gets the narrowest width at which one does. The fewest stages are found
    as far as `balanced` finds all cuts of its width; in graphs with more than 2,500 of them, nearly.
    """

    name = "memory"

    limit: str = "2GiB"
    width: int = 2
    copies: int = 4

    @property
    @override
    def reads(self) -> frozenset[str]:
        return frozenset({"synthesizer"})

    @override
    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        limit = parse_bytes(self.limit)
        if self.width < 1 or not 1 <= self.copies <= _MANY:
            raise PlanError(
                f"{self}: at least one value crosses a cut, and a parameter is held once to {_MANY} times."
            )
        weights, saved = parameters(flow), memory(flow)
        held = {name: self.copies * weights[name] + saved[name] for name in computed(flow)}
        if sum(held.values()) <= limit:
            return plan_of(flow, dict.fromkeys(carrying(flow), 0), str(self))
        refuse_impossible(self, flow, 2)
        choices = Choices(flow, held, self.width)
        while (stages := self._fitted(choices, limit)) is None:
            if not choices.widen():
                raise PlanError(self._too_small(flow, held))
        return choices.placement.plan(stages, str(self))

    def _fitted(self, choices: Choices, limit: int) -> dict[str, int] | None:
        """A stage for each carrying value so that all fit, if the cuts there are admit it."""
        prices = {name: choices.flow.nodes[name].get("synthesizer_bytes", 0) for name in choices.sizes}
        for cuts in choices.cuts():
            few = cuts.thinned(MOST)
            if (places := Search(few, choices.sizes, prices).fewest_cuts(limit)) is not None:
                return few.stages(places)
        return None

    def _too_small(self, flow: nx.DiGraph[str], held: dict[str, int]) -> str:
        def largest(sizes: dict[str, int]) -> str:
            most = max(sizes, key=sizes.__getitem__)
            return f"{show_bytes(sizes[most])} at {flow.nodes[most]['anchor']}"

        prices = {name: flow.nodes[name].get("synthesizer_bytes", 0) for name in carrying(flow)}
        return (
            f"{self} finds no plan{self.under} whose stages all fit. The most that one value holds, its "
            f"parameters {self.copies} times and what is saved for its backward pass, is {largest(held)}; "
            f"what guesses the gradient of a value takes up to {largest(prices)}. Raise the limit, make the "
            "batch of the example smaller, or choose a smaller synthesizer."
        )
