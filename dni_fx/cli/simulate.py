"""How fast stages on many processes would be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer

from dni_fx import verbs
from dni_fx.cli.commands.simulate import Simulate
from dni_fx.cli.output import say_json
from dni_fx.cli.planned import Planned, planned_as
from dni_fx.cli.usage import refuse_idle
from dni_fx.errors import DniError, PlanError
from dni_fx.files import check_place, write_whole
from dni_fx.schedules import SCHEDULES, Schedule
from dni_fx.schedules.bandwidth import parse_bandwidth
from dni_fx.schedules.costs import Network, alone
from dni_fx.schedules.drawing import draw
from dni_fx.schedules.layout import Layout
from dni_fx.schedules.outcome import Outcome
from dni_fx.schedules.simulation import simulate
from dni_fx.stage_costs import Costed, costed
from dni_fx.synthesizers import SYNTHESIZERS
from dni_fx.table import Column, show_table
from passes import parse
from passes.bytes import show_bytes
from passes.words import counted

_TERA = 1e12
_NOTABLE = 0.005
"""The least share of time that is worth a word."""
_COLUMNS = (
    Column("schedule"),
    Column("batches / s", is_number=True),
    Column("times 1 rank", is_number=True),
    Column("idle", is_number=True),
    Column("peak", is_number=True),
    Column("in flight", is_number=True),
    Column("waits most"),
)


def run(request: Simulate) -> None:
    """Print how schedules compare, and draw them if that is asked for."""
    network = Network(
        parse_bandwidth(request.bandwidth) if request.bandwidth else math.inf, request.rtt / 2e3
    )
    schedules = [parse(text, SCHEDULES) for text in request.schedule or sorted(SCHEDULES)]
    synthesizer = parse(request.synthesizer or "auto", SYNTHESIZERS)
    _refuse(request)
    if all(each.name != "dni" for each in schedules):
        refuse_idle({"--synthesizer": request.synthesizer}, "no schedule that is compared guesses gradients")
    each = f"balanced:stages={request.ranks}" if request.ranks else verbs.DEFAULT_PLAN
    try:
        planned = planned_as(request.source, request.plan, request.capture, request.measured, default=each)
    except PlanError as error:
        if not request.plan:
            error.add_note(
                "Or name a plan of fewer stages with --plan, which are repeated for the other ranks."
            )
        raise
    speed = _TERA * (request.tflops or 1.0)
    once = costed(planned.gm, planned.plan, planned.flow, planned.sheet, synthesizer, speed)
    ranks = request.ranks or len(once.costs)
    stages = once.repeated(ranks)
    layout = stages.layout(ranks)
    outcomes = {str(each): _simulated(each, layout, stages, network) for each in schedules}
    if request.picture is not None:
        write_whole(request.picture, draw(outcomes).encode())
    notes = list(_notes(request, planned, once, stages, ranks, speed))
    if request.as_json:
        say_json(_data(request, planned, stages, outcomes, notes))
        return
    typer.echo("\n".join([f"{planned.plan.summary}", *notes, "", _table(outcomes, stages)]))
    if request.timetable:
        for each in schedules:
            typer.echo(f"\n{each}\n{each.timetable(layout)}")
    if request.picture is not None:
        typer.echo(f"\nwrote {request.picture}")


def _refuse(request: Simulate) -> None:
    if request.measured and request.tflops is not None:
        raise typer.BadParameter("--measure finds the speed out.", param_hint="--tflops")
    if request.timetable and request.as_json:
        raise typer.BadParameter("--json holds no timetable.", param_hint="--timetable")
    if request.picture is not None and request.picture.suffix.lower() != ".svg":
        raise DniError(f"cannot draw {request.picture}: a timetable is drawn as a .svg file.")
    check_place(request.picture)


def _simulated(schedule: Schedule, layout: Layout, stages: Costed, network: Network) -> Outcome:
    timetable = schedule.timetable(layout, schedule.enough)
    return simulate(timetable, layout, stages.costs, network)


def _notes(
    request: Simulate, planned: Planned, once: Costed, stages: Costed, ranks: int, speed: float
) -> Iterator[str]:
    """What the numbers rest on."""
    speed_of = "measured here" if planned.sheet.is_measured else f"FLOPs at {speed / _TERA:g} TFLOP/s"
    line = f"{request.bandwidth} each way" if request.bandwidth else "no limit on bandwidth"
    stages_on = f"{counted(len(stages.costs), 'stage')} on {counted(ranks, 'rank')}"
    yield f"{stages_on}; times {speed_of}; {line}, round trip {request.rtt:g} ms"
    if len(stages.costs) > len(once.costs):
        yield (
            f"The plan has {counted(len(once.costs), 'stage')}. It is repeated in order, as in a model "
            f"{len(stages.costs) / len(once.costs):.3g} times as deep."
        )


def _table(outcomes: Mapping[str, Outcome], stages: Costed) -> str:
    return show_table(
        _COLUMNS,
        [
            [
                name,
                f"{outcome.throughput:.4g}",
                f"{outcome.throughput * alone(stages.costs):.3g}",
                f"{outcome.bubble:.1%}",
                show_bytes(max(_each(outcome.peak, outcome))),
                str(max(_each(outcome.in_flight, outcome))),
                _worst(outcome),
            ]
            for name, outcome in outcomes.items()
        ],
    )


def _each(measure: Any, outcome: Outcome) -> Sequence[Any]:
    """What is said of each rank."""
    return [measure(rank) for rank in range(len(outcome.spans))]


def _worst(outcome: Outcome) -> str:
    waits = outcome.waits()
    if not waits or waits[0].share < _NOTABLE:
        return "nobody"
    rank, sender, share, way = waits[0]
    return f"rank {rank} for {sender}: {share:.0%}, on the way {way:.0%}"


def _data(
    request: Simulate, planned: Planned, stages: Costed, outcomes: Mapping[str, Outcome], notes: Sequence[str]
) -> dict[str, Any]:
    return {
        "plan": str(planned.plan.policy or verbs.DEFAULT_PLAN),
        "planned_stages": len(planned.sheet.stages),
        "cost": "seconds" if planned.sheet.is_measured else "flops",
        "notes": notes,
        "stages": stages.costs,
        "connections": stages.connections,
        "seconds_alone": alone(stages.costs),
        "schedules": {
            name: {
                "throughput": outcome.throughput,
                "period": outcome.period,
                "bubble": outcome.bubble,
                "idle": _each(outcome.idle, outcome),
                "peak_bytes": _each(outcome.peak, outcome),
                "in_flight": _each(outcome.in_flight, outcome),
                "waits": [wait._asdict() for wait in outcome.waits() if wait.share >= _NOTABLE],
            }
            for name, outcome in outcomes.items()
        },
        "picture": request.picture,
    }
