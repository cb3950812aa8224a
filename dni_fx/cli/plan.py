"""Where a policy would cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dni_fx import verbs
from dni_fx.cli import options
from dni_fx.cli.models import captured, open_model, read_plan
from dni_fx.cli.options import ModelRequest
from dni_fx.cli.output import check_place, say_json, say_stages, write_text
from dni_fx.decoupled import Decoupled
from dni_fx.describe import refuse_misfit, stage_facts
from dni_fx.errors import DniError
from passes import Plan

NAME = "plan"
EXAMPLE = "dni-fx plan dni_fx.demo:mlp --plan balanced:stages=3 -o plan.json"


def run(
    model: options.ModelText,
    weights: options.Weights = None,
    example: options.Example = "",
    allow_pickle: options.AllowPickle = False,
    plan: options.PlanText = None,
    frontend: options.FrontEndText = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the plan as JSON, to edit or reuse."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show where a plan cuts a model.

    For each stage: what it holds, what it costs, and what crosses to later ones.
    """
    check_place(output)
    opened = open_model(ModelRequest(model, weights, example, allow_pickle))
    if isinstance(opened.model, Decoupled):
        raise DniError("this model is cut already. `dni-fx inspect` shows its plan.")
    program = captured(opened, frontend)
    gm = verbs.training_graph(program)
    read = read_plan(plan or verbs.DEFAULT_PLAN)
    chosen = read if isinstance(read, Plan) else verbs.plan(program, read)
    refuse_misfit(gm, chosen)
    stages = stage_facts(program.tree, gm, chosen)
    if output is not None:
        write_text(output, chosen.to_json())
    if as_json:
        say_json({"plan": json.loads(chosen.to_json()), "stages": stages})
        return
    typer.echo(f"{chosen}\n")
    say_stages(stages)
    if output is not None:
        typer.echo(f"\nwrote {output}")
