"""`dni-fx plan`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dni_fx.cli.commands.base import Request
from dni_fx.cli.commands.options import CaptureRequest, DryRun, ModelRequest, PlanText, PrintAfterAll
from dni_fx.cli.completion import completing


@dataclass(frozen=True, kw_only=True)
class ShowPlan(Request):
    """Show where a plan cuts a model.

    For each stage: what it holds, what it costs, and what crosses to later ones. Of a cut model it is the
    plan that it is cut by.
    """

    name = "plan"
    example = "dni-fx plan dni_fx.demo:mlp --plan balanced:stages=3 -o plan.json"
    work = "plan"

    source: ModelRequest
    plan: PlanText = None
    capture: CaptureRequest
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the plan as JSON, to edit or reuse; - for stdout."
        ),
    ] = None
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the plan: .svg, .png or .html.")
    ] = None
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write stages and costs for Model Explorer to show on the .pt2 file."
        ),
    ] = None
    nodes: Annotated[bool, typer.Option("--nodes", help="Show what each node costs, too.")] = False
    measured: Annotated[bool, typer.Option("--measure", help="Measure how long each node takes.")] = False
    memory: Annotated[
        str,
        typer.Option(
            metavar="LIMIT",
            help="Predict the memory of training by each method, and say which fit into so much, as in 8GiB.",
            show_default=False,
        ),
    ] = ""
    optimizer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For --memory: sgd, momentum or adam; adam if not said."),
    ] = None
    synthesizer: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="What guesses gradients, for --memory, --nodes and --json; auto if not said.",
            autocompletion=completing("synthesizers"),
        ),
    ] = None
    print_after_all: PrintAfterAll = False
    dry_run: DryRun = False
