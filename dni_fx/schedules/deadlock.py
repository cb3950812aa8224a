"""Who waits for whom, when nobody goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import networkx as nx

from dni_fx.errors import ScheduleError
from dni_fx.schedules.actions import Action
from dni_fx.schedules.timetable import Timetable

_SHOWN = 8
"""Ranks that a message names."""


def refuse_deadlock(timetable: Timetable, stuck: Mapping[int, Action]) -> None:
    """Do nothing if no rank is stuck at an action that receives.

    Raises:
        ScheduleError: some are; says what each waits for, and which ranks wait in a circle.
    """
    ScheduleError.unless_none("ranks wait for ever", _problems(timetable, stuck))


def _problems(timetable: Timetable, stuck: Mapping[int, Action]) -> Iterator[str]:
    waits: nx.DiGraph[int] = nx.DiGraph()
    causes: dict[int, str] = {}
    for rank, action in stuck.items():
        message = action.message
        sender = None if message is None else timetable.sent.get(message)
        if sender is None:
            causes[rank] = f"rank {rank} waits at {action} for what no rank sends"
        else:
            waits.add_edge(rank, sender)
    circle = _circle(waits)
    for rank in circle:
        causes[rank] = f"rank {rank} waits at {stuck[rank]} for rank {next(iter(waits[rank]))}"
    if circle:
        yield f"in a circle: {', '.join(map(str, [*circle[:_SHOWN], *(['...'] * (len(circle) > _SHOWN))]))}"
    others = {
        rank: f"rank {rank} waits at {action} for rank {next(iter(waits[rank]))}"
        for rank, action in stuck.items()
        if rank not in causes
    }
    lines = [*causes.values(), *others.values()]
    yield from lines[:_SHOWN]
    if lines[_SHOWN:]:
        yield f"and {len(lines) - _SHOWN} more ranks"


def _circle(waits: nx.DiGraph[int]) -> list[int]:
    """Ranks of which each waits for the next, and the last for the first; none if there is no such circle."""
    try:
        return [edge[0] for edge in nx.find_cycle(waits)]
    except nx.NetworkXNoCycle:
        return []
