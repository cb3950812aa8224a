"""What the simulation of schedules says of rows that were measured, and what it has to know for that."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dni_fx.schedules import SCHEDULES
from dni_fx.schedules.costs import Bookkeeping, Network, StageCost
from dni_fx.schedules.layout import Connection, Layout
from dni_fx.schedules.outcome import Outcome
from dni_fx.schedules.simulation import simulate
from passes import parse
from tests.benchmarks.distributed.fit import fitted
from tests.benchmarks.distributed.meter import network_of

LAG = 4
Pick = Callable[[Sequence[float]], float]
"""The median, or the least."""
Found = Mapping[str, Any]
"""What one rank has measured: costs of its part, times and waits of rows, and what messages take."""


@dataclass(frozen=True)
class Kit:
    """What a runtime takes for itself, and the network as it uses it."""

    bookkeeping: Bookkeeping
    network: Network


BARE = Kit(Bookkeeping(), Network())
"""Nothing but what stages compute."""


def rows_of(ranks: int) -> dict[str, str]:
    """Ways that are simulated, and the schedule of each."""
    micro = max(4, ranks)
    return {
        "gpipe 1": "gpipe:micro=1",
        f"gpipe {micro}": f"gpipe:micro={micro}",
        f"1f1b {micro}": f"1f1b:micro={micro}",
        "dni delayed": f"dni:lag={LAG}",
    }


def runtime_of(row: str) -> str:
    """Whose bookkeeping and messages a way has."""
    return "dni" if row.startswith("dni") else "torch"


def simulated(
    found: Sequence[Found], schedule: str, kit: Kit, steps: int, pick: Pick = statistics.median
) -> Outcome:
    """The same row of steps by the simulation."""
    chosen = parse(schedule, SCHEDULES)
    sizes = [each["sizes"][chosen.batches] for each in found]
    links = tuple(Connection(at, at + 1, size, size) for at, size in enumerate(sizes[:-1]))
    layout = Layout(len(found), len(found), links)
    costs: list[StageCost] = []
    for each in found:
        forward, backward, rest = (pick(row) for row in zip(*each["costs"][chosen.batches], strict=True))
        costs.append(kit.bookkeeping.around(StageCost(forward, backward, step=rest)))
    return simulate(chosen.timetable(layout, steps), layout, costs, kit.network)


def true_seconds(found: Sequence[Found], row: str, pick: Pick) -> float:
    """The seconds a step of a way, by the median of rounds or the least."""
    return pick([each[0] for each in found[0]["rows"][row]])


def calibrated(found: Sequence[Found], steps: int, pick: Pick) -> dict[str, Kit]:
    """By the rows of one net, what each runtime takes."""
    return {name: _calibrated(found, name, steps, pick) for name in found[0]["messages"]}


def _calibrated(found: Sequence[Found], runtime: str, steps: int, pick: Pick) -> Kit:
    network = network_of(*found[0]["messages"][runtime])
    rows = {row: each for row, each in rows_of(len(found)).items() if runtime_of(row) == runtime}
    true = {row: true_seconds(found, row, pick) for row in rows}

    def errors(step: float, passing: float = 0.0) -> list[float]:
        kit = Kit(Bookkeeping(passing, step), network)
        guesses = {row: simulated(found, rows[row], kit, steps, pick).seconds / steps for row in rows}
        return [guesses[row] / true[row] - 1 for row in rows]

    step, *passing = fitted(errors, min(len(rows), 2), most=max(true.values()))
    return Kit(Bookkeeping(*passing, step=step), network)
