"""Cuts in time, which any plan can have beside its stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from dni_fx.errors import PlanError
from passes import Plan, UnknownNameError
from passes.anchors import Anchor
from passes.loops import loops, misstated, states
from passes.recurrences import recurrences, refusals

if TYPE_CHECKING:
    import networkx as nx


def in_time(plan: Plan, flow: nx.DiGraph[str], every: int, modules: Sequence[str] = ()) -> Plan:
    """The plan in which the state of layers and loops is cut after each `every`-th step. O(V + E).

    Raises:
        PlanError: there is nothing to cut, or it cannot be cut; says what was looked for.
        UnknownNameError: a pattern matches nothing.
    """
    there = recurrences(flow)
    if every < 1:
        raise PlanError(f"time cannot be cut every {every} steps; it is every step or a later one.")
    if not there:
        raise PlanError(
            f"{plan.policy} found nothing to cut in time. It looked for calls of nn.RNN, nn.GRU and nn.LSTM, "
            "and for loops over a cell: calls of the same parameters where a gradient goes from each to the "
            "one before."
        )
    for pattern in modules:
        if not any(fnmatchcase(name, pattern) for name in there):
            raise UnknownNameError(
                f"{pattern!r} names nothing that can be cut in time. There are {', '.join(there)}."
            )
    chosen = [name for name in there if not modules or any(fnmatchcase(name, each) for each in modules)]
    PlanError.unless_none("cannot cut in time", _problems(flow, chosen, every))
    return replace(plan, time=dict.fromkeys(chosen, every))


def _problems(flow: nx.DiGraph[str], chosen: Sequence[Anchor], every: int) -> Iterator[str]:
    for name, refusal in refusals(flow).items():
        if name in chosen:
            yield f"{name}: {refusal}"
    for name, loop in loops(flow).items():
        if name in chosen:
            yield from misstated(flow, loop, states(flow, loop, every))
