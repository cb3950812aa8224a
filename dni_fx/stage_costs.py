"""What a planned model's stages cost and send, as a schedule's simulation takes it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx

from dni_fx.crossing import crossings_of
from dni_fx.errors import ScheduleError
from dni_fx.pricing import price
from dni_fx.schedules.costs import StageCost
from dni_fx.schedules.layout import Connection, Layout
from dni_fx.sheet import Row, Sheet
from dni_fx.synthesizers import Synthesizer
from passes import Plan
from passes.anchors import anchor_of
from passes.crossings import crossings, plain_crossings

if TYPE_CHECKING:
    import networkx as nx

_UPDATE = 10
"""Operations of Adam on each parameter, about."""
_FORWARD = 1 / 3
"""The forward pass's part where no operation is counted."""


@dataclass(frozen=True)
class Costed:
    """What each stage costs on one batch, the example, and what they send to one another."""

    costs: tuple[StageCost, ...]
    connections: tuple[Connection, ...]

    def repeated(self, stages: int) -> Costed:
        """So many stages: these over and over, each time behind the last, as in a model that is deeper.

        Where one time follows another, as much crosses as between two neighbors here on average.

        Raises:
            ScheduleError: there is but one stage, so nothing crosses anywhere.
        """
        count = len(self.costs)
        if stages <= count:
            return self
        steps = [each for each in self.connections if each.consumer == each.producer + 1]
        if not steps:
            raise ScheduleError(
                f"cannot make {stages} stages of {count}: no value crosses from one to the next, so it is "
                "not known what would. Use a plan with more stages."
            )
        size = sum(each.value_bytes for each in steps) / len(steps)
        connections = [
            Connection(
                each.producer + at, each.consumer + at, each.value_bytes, each.gradient_bytes, each.carries
            )
            for at in range(0, stages, count)
            for each in self.connections
            if each.consumer + at < stages
        ]
        connections += [Connection(at - 1, at, size, size) for at in range(count, stages, count)]
        return Costed(tuple(self.costs[at % count] for at in range(stages)), tuple(connections))

    def layout(self, ranks: int) -> Layout:
        """These stages on so many ranks."""
        return Layout(ranks, len(self.costs), self.connections)


def costed(
    gm: fx.GraphModule,
    plan: Plan,
    flow: nx.DiGraph[str],
    sheet: Sheet,
    synthesizer: Synthesizer,
    speed: float,
) -> Costed:
    """What the stages of a plan cost and send on one batch.

    Times are those of the sheet if it is measured, else its FLOPs at `speed` FLOPs a second. A measured time
    is divided into forward and backward pass as FLOPs are; half of the FLOPs of a backward pass through
    parameters are for their gradients. Synthesizers and updates are counted, at the speed of
    the model. O(V + E).

    Raises:
        SynthesizerError: the synthesizer refuses a boundary.
    """
    flops = sum(row.flops for row in sheet.stages)
    rate = sum(sheet.costs) / flops if sheet.is_measured and flops else 1 / speed
    place = {row.stage: at for at, row in enumerate(sheet.stages)}  # a stage of an edited plan may be empty
    learned = defaultdict[int, list[tuple[float, float]]](list)
    pairs: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for _, spec in crossings(gm, plan, flow):
        size = sum(value.bytes for value in crossings_of(spec))
        found = price(synthesizer, spec)
        learned[spec.producer].append((found.flops * rate, found.saved_bytes + 2 * size))
        for consumer in spec.consumers:
            pair = pairs[place[spec.producer], place[consumer]]
            pair[0], pair[1], pair[2] = pair[0] + size, pair[1] + size, 1.0
    for producer, consumer, size in _plain(gm, plan, flow):
        pairs[place[producer], place[consumer]][0] += size
    parts = _parts(plan, flow, gm)
    costs = tuple(_cost(row, parts[row.stage], learned[row.stage], rate) for row in sheet.stages)
    connections = (
        Connection(*pair, value, gradient, bool(carries))
        for pair, (value, gradient, carries) in sorted(pairs.items())
    )
    return Costed(costs, tuple(connections))


def _plain(gm: fx.GraphModule, plan: Plan, flow: nx.DiGraph[str]) -> Iterator[tuple[int, int, int]]:
    """What crosses without a gradient: from which stage, to which, how many bytes."""
    stages = plan.assign(gm.graph)
    for node, size in plain_crossings(gm, plan, flow).items():
        there = _places(node, stages, plan)
        readers = {place for user in node.users if user in stages for place in _places(user, stages, plan)}
        for consumer in sorted(readers - there):
            if consumer > stages[node]:
                yield stages[node], consumer, size


def _places(node: fx.Node, stages: Mapping[fx.Node, int], plan: Plan) -> set[int]:
    return {stages[node], *plan.copies.get(anchor_of(node), ())}


def _parts(plan: Plan, flow: nx.DiGraph[str], gm: fx.GraphModule) -> dict[int, list[float]]:
    """FLOPs of each stage: of the forward pass, of the backward pass, and of the latter for parameters."""
    found: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    stages = plan.assign(gm.graph)
    for node in stages:
        facts = flow.nodes[node.name]
        for stage in _places(node, stages, plan):
            part = found[stage]
            part[0] += facts["flops"]
            part[1] += facts["backward_flops"]
            part[2] += facts["backward_flops"] / 2 if facts["parameters"] else 0
    return found


def _cost(row: Row, parts: list[float], learned: list[tuple[float, float]], rate: float) -> StageCost:
    forward, backward, weight = parts
    seconds = row.flops * rate if row.seconds is None else row.seconds
    share = forward / (forward + backward) if forward + backward else _FORWARD
    learning = math.fsum(cost for cost, _ in learned)
    return StageCost(
        forward=seconds * share,
        backward=seconds * (1 - share),
        weight=seconds * (1 - share) * (weight / backward if backward else 0),
        guess=learning / 3,  # a backward pass costs twice its forward pass
        regress=2 * learning / 3,
        step=row.parameters * _UPDATE * rate,
        saved=row.saved,
        guessed=math.fsum(held for _, held in learned),
    )
