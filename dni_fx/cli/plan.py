"""Where a policy would cut."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from torch import fx

from dni_fx import verbs
from dni_fx.assembly import measure_shown
from dni_fx.budget import OPTIMIZERS, Budget, budget_of
from dni_fx.calls import Call
from dni_fx.cli import options
from dni_fx.cli.models import Opened, captured, open_model, read_exported, read_plan
from dni_fx.cli.options import ModelRequest
from dni_fx.cli.output import say_json, say_nodes
from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.describe import plan_of, refuse_misfit
from dni_fx.errors import DniError
from dni_fx.files import check_place, write_whole
from dni_fx.overlay import write_overlay
from dni_fx.pricing import price_all
from dni_fx.sheet import Sheet, sheet_of
from dni_fx.synthesizers import SYNTHESIZERS
from passes import Plan, parse
from passes.bytes import parse_bytes
from passes.costs import node_table
from passes.dataflow import dataflow

if TYPE_CHECKING:
    import networkx as nx

NAME = "plan"
EXAMPLE = "dni-fx plan dni_fx.demo:mlp --plan balanced:stages=3 -o plan.json"

_STDOUT = Path("-")


@dataclass(frozen=True)
class _Planned:
    """A plan on the graph that it is for."""

    gm: fx.GraphModule
    flow: nx.DiGraph[str]
    plan: Plan
    sheet: Sheet


def run(
    model: options.ModelText,
    weights: options.Weights = None,
    example: options.Example = "",
    allow_pickle: options.AllowPickle = False,
    plan: options.PlanText = None,
    frontend: options.FrontEndText = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the plan as JSON, to edit or reuse; - for stdout."
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the plan: .svg, .png or .html.")
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write stages and costs for Model Explorer to show on the .pt2 file.",
        ),
    ] = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="Show what each node costs, too.")] = False,
    measured: Annotated[bool, typer.Option("--measure", help="Measure how long each node takes.")] = False,
    memory: Annotated[
        str,
        typer.Option(
            metavar="LIMIT",
            help="Predict the memory of training by each method, and say which fit into so much, as in 8GiB.",
            show_default=False,
        ),
    ] = "",
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help=f"For --memory: {', '.join(OPTIMIZERS)}.")
    ] = "adam",
    synthesizer: Annotated[
        str, typer.Option(metavar="SPEC", help="What guesses gradients, for --memory, --nodes and --json.")
    ] = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Show where a plan cuts a model.

    For each stage: what it holds, what it costs, and what crosses to later ones. Of a cut model it is the
    plan that it is cut by.
    """
    limit, chosen = parse_bytes(memory) if memory else 0, parse(synthesizer, SYNTHESIZERS)
    if optimizer not in OPTIMIZERS:
        raise typer.BadParameter(f"there are {', '.join(OPTIMIZERS)}.", param_hint="--optimizer")
    if output == _STDOUT and as_json:
        raise typer.BadParameter("--json prints the plan as well.", param_hint="--output -")
    for path in (output, picture, overlay):
        check_place(None if path == _STDOUT else path)
    exported = read_exported(model) if overlay is not None else None
    planned = _planned(
        open_model(ModelRequest(model, weights, example, allow_pickle)), plan, frontend, measured
    )
    budget = budget_of(planned.gm, planned.plan, optimizer, chosen, planned.flow) if limit else None
    if nodes or as_json:
        price_all(planned.flow, planned.gm, chosen)
    written = _write(planned, output, picture)
    if overlay is not None and exported is not None:
        written += write_overlay(exported, planned.plan, overlay)
    if as_json:
        say_json(_data(planned, budget, limit))
    elif output != _STDOUT:
        _say(planned, budget, limit, nodes)
        typer.echo("".join(f"\nwrote {path}" for path in written), nl=bool(written))


def _planned(opened: Opened, plan: str | None, frontend: str | None, wants_time: bool) -> _Planned:
    """The plan that is asked for, or that a cut model has, and its graph, measured if that is asked."""
    if isinstance(opened.model, Decoupled):
        gm, call, chosen = _of_cut(opened.model, plan, frontend)  # a file's graph may be another front-end's
    else:
        program = captured(opened, frontend)
        assert program.example is not None
        read = read_plan(plan or verbs.DEFAULT_PLAN)
        chosen = read if isinstance(read, Plan) else verbs.plan(program, read)
        gm, call = verbs.training_graph(program), program.example
        refuse_misfit(gm, chosen)
    if wants_time:
        measure_shown(gm, call.leaves)
    flow = dataflow(gm)
    return _Planned(gm, flow, chosen, sheet_of(gm, chosen, flow))


def _of_cut(cut: Decoupled, plan: str | None, frontend: str | None) -> tuple[fx.GraphModule, Call, Plan]:
    given = {"--plan": plan, "--frontend": frontend}
    if names := [name for name, value in given.items() if value]:
        raise DniError(
            f"this model is cut already, so {' and '.join(names)} would do nothing. Leave "
            f"{'it' if len(names) == 1 else 'them'} out to see its plan, or name the model it was cut from."
        )
    gm = verbs.cut_graph(cut).capture.module(verbs.recouple(cut))
    call = cutting_of(cut).program.example
    assert call is not None
    return gm, call, plan_of(cut)


def _write(planned: _Planned, output: Path | None, picture: Path | None) -> list[Path]:
    """Write the plan and its picture, if they are asked for; says which files there are now."""
    if output == _STDOUT:
        typer.echo(planned.plan.to_json())
    elif output is not None:
        write_whole(output, f"{planned.plan.to_json()}\n".encode())
    if picture is not None:
        from dni_fx.picture import write_picture  # draws with what is an extra

        cost = "time" if planned.sheet.is_measured else "flops"
        write_picture(planned.gm, planned.plan, picture, cost=cost)
    return [path for path in (output, picture) if path is not None and path != _STDOUT]


def _data(planned: _Planned, budget: Budget | None, limit: int) -> dict[str, Any]:
    data: dict[str, Any] = {
        "plan": json.loads(planned.plan.to_json()),
        "sheet": planned.sheet.data(),
        "nodes": node_table(planned.flow),
    }
    return data if budget is None else data | {"memory": budget.data(limit)}


def _say(planned: _Planned, budget: Budget | None, limit: int, nodes: bool) -> None:
    if nodes:
        say_nodes(node_table(planned.flow), planned.plan)
        typer.echo()
    typer.echo(str(planned.sheet))
    if budget is not None:
        typer.echo(f"\n{budget.table(limit)}")
