"""`dni-fx simulate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dni_fx.cli.commands.base import Request
from dni_fx.cli.commands.options import CaptureRequest, ModelRequest, PlanText
from dni_fx.cli.completion import completing


@dataclass(frozen=True, kw_only=True)
class Simulate(Request):
    """Compare schedules for stages on many processes, without starting one.

    For each schedule: batches a second, the share of time in which ranks idle, the most memory of a rank, and
    who waits for whom. A batch is the example, and a micro-batch too: schedules that split batches are
    reckoned by what they split them into. Without --plan the model is cut into as many stages as there are
    ranks. A plan of fewer stages is repeated, each time behind the last, as in a deeper model of the same
    kind; one of more gives each rank a stretch of them.
    """

    name = "simulate"
    example = "dni-fx simulate dni_fx.demo:mlp --ranks 3 --bandwidth 50Mbit --rtt 20"
    work = "simulate"

    source: ModelRequest
    plan: PlanText = None
    capture: CaptureRequest
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes, each on a machine of its own; as many as stages (or 2) if not said."
        ),
    ] = None
    schedule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="What to compare, such as dni:lag=8 or 1f1b:micro=16; all at their defaults if not said. "
            "May be repeated.",
            autocompletion=completing("schedules"),
        ),
    ] = None
    bandwidth: Annotated[
        str,
        typer.Option(
            metavar="SPEED",
            help="What a rank can send, and receive, in a second: 50Mbit, 10MB. Without limit if not said.",
            show_default=False,
        ),
    ] = ""
    rtt: Annotated[
        float, typer.Option(min=0.0, metavar="MS", help="Milliseconds of a round trip between two ranks.")
    ] = 0.0
    measured: Annotated[
        bool, typer.Option("--measure", help="Measure how long each node takes, and do not count FLOPs.")
    ] = False
    tflops: Annotated[
        float | None,
        typer.Option(
            min=1e-9, help="Speed of a rank, in 1e12 FLOPs a second, without --measure; 1 if not said."
        ),
    ] = None
    synthesizer: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="What guesses gradients, for dni; auto if not said.",
            autocompletion=completing("synthesizers"),
        ),
    ] = None
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the first steps over time, as .svg.")
    ] = None
    timetable: Annotated[
        bool,
        typer.Option("--timetable", help="Print what each rank does in the first step of each schedule."),
    ] = False
