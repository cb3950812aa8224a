"""How much memory training holds where stages run backward at once, read off an annotated graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import fx

from dni_fx.pricing import COPIES, Price, price
from dni_fx.synthesizers import Synthesizer
from dni_fx.timeline import Timeline, saver
from passes import BoundarySpec, Plan
from passes.crossings import crossings, plain_crossings
from passes.values import value_of

if TYPE_CHECKING:
    import networkx as nx


@dataclass
class _Stage:
    """What one stage does to memory.

    `sent` is what crosses out of it, there until the last reader has run, and `dropped` what it is the last
    to read. `kept` stays to the end: guesses, and what the synthesizers save. `returned` are the gradients of
    what it reads, which wait for the end, too. `shared` is what its nodes save and what is sent as well.
    """

    members: list[int] = field(default_factory=list[int])
    sent: int = 0
    dropped: int = 0
    kept: int = 0
    returned: int = 0
    shared: int = 0
    is_released: bool = False


def early_release(
    gm: fx.GraphModule, plan: Plan, flow: nx.DiGraph[str], timeline: Timeline, synthesizer: Synthesizer
) -> tuple[int, float]:
    """The most that a step holds beside weights, optimizer and batch, and what it computes more, as a part.

    A stage whose values are all guessed for frees what it has saved before the next one runs. Its parameter
    gradients and those of what it reads wait for the end.

    Raises:
        SynthesizerError: a boundary cannot have this synthesizer.
    """
    leaving = list(crossings(gm, plan, flow))
    prices = [price(synthesizer, spec) for _, spec in leaving]
    stages = _stages(gm, plan, timeline, leaving, prices)
    peak = held = COPIES * sum(each.parameter_bytes for each in prices) + _plain(gm, plan, flow)
    waiting = 0
    for stage in stages:
        held += stage.sent + stage.kept
        saved = sum(timeline.moments[at].saved for at in stage.members)
        peak = max(peak, held + waiting - stage.shared + timeline.peak(stage.members))
        held += timeline.parameter_bytes(timeline.read_by(stage.members)) + stage.returned - stage.dropped
        waiting += 0 if stage.is_released or stage is stages[-1] else saved - stage.shared
    learning = (_learning(spec, each) for (_, spec), each in zip(leaving, prices, strict=True))
    facts = [flow.nodes[moment.name] for moment in timeline.moments]
    total = sum(each["flops"] + each["backward_flops"] for each in facts)
    extra = sum(each.flops for each in prices) / total if total else 0.0
    return max(peak, held + waiting + max(learning, default=0)), extra


def _plain(gm: fx.GraphModule, plan: Plan, flow: nx.DiGraph[str]) -> int:
    return sum(plain_crossings(gm, plan, flow).values())


def _learning(spec: BoundarySpec, each: Price) -> int:
    """What a synthesizer takes while it learns: the target, thrice more to compare it, and gradients.

    A guess whose features stand before other dimensions is laid out anew for that.
    """
    is_turned = any(v.feature_dim % max(len(v.shape), 1) != len(v.shape) - 1 for v in spec.values)
    return max((4 + is_turned) * _bytes(spec), 2 * _bytes(spec) + each.parameter_bytes)


def _stages(
    gm: fx.GraphModule,
    plan: Plan,
    timeline: Timeline,
    leaving: Sequence[tuple[tuple[fx.Node, ...], BoundarySpec]],
    prices: Sequence[Price],
) -> list[_Stage]:
    stages = [_Stage() for _ in range(len(plan))]
    stage_of = plan.assign(gm.graph)
    returning = {stage_of[node] for node in stage_of if any(user.op == "output" for user in node.users)}
    for node, stage in stage_of.items():
        stages[stage].members.append(timeline.place[node])
    for (nodes, spec), each in zip(leaving, prices, strict=True):
        size, producer = _bytes(spec), stages[spec.producer]
        producer.sent += size
        producer.kept += size + each.saved_bytes
        producer.is_released = spec.producer not in returning
        stages[max(spec.consumers)].dropped += size
        for consumer in spec.consumers:
            stages[consumer].returned += size
        for node in nodes:
            if (holder := saver(node)) in stage_of:
                stages[stage_of[holder]].shared += value_of(node).bytes
    return stages


def _bytes(spec: BoundarySpec) -> int:
    return sum(math.prod(value.shape) * value.dtype.itemsize for value in spec.values)
