"""Where a policy would cut."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from torch import fx
from torch.export import ExportedProgram

from dni_fx import verbs
from dni_fx.assembly import measure_shown
from dni_fx.budget import OPTIMIZERS, Budget, budget_of
from dni_fx.calls import Call
from dni_fx.cli.after_all import Printer, show_planned
from dni_fx.cli.commands.plan import ShowPlan
from dni_fx.cli.models import captured, open_model, read_exported
from dni_fx.cli.named_files import read_plan
from dni_fx.cli.output import one_document, say_document, say_json, say_nodes
from dni_fx.cli.rehearsal import beside, say_unwritten
from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.describe import plan_of, refuse_misfit
from dni_fx.errors import DniError
from dni_fx.files import check_place, write_whole
from dni_fx.overlay import write_overlay
from dni_fx.picture import check_picture, write_picture
from dni_fx.pricing import price_all
from dni_fx.sheet import Sheet, sheet_of
from dni_fx.synthesizers import SYNTHESIZERS
from passes import Plan, parse
from passes.bytes import parse_bytes
from passes.costs import node_table
from passes.dataflow import dataflow

if TYPE_CHECKING:
    import networkx as nx

_STDOUT = Path("-")


@dataclass(frozen=True)
class _Planned:
    """A plan on the graph that it is for."""

    gm: fx.GraphModule
    flow: nx.DiGraph[str]
    plan: Plan
    sheet: Sheet


def run(request: ShowPlan) -> None:
    """Print the plan as a table, and write what is asked for."""
    limit = parse_bytes(request.memory) if request.memory else 0
    chosen = parse(request.synthesizer, SYNTHESIZERS)
    if request.optimizer not in OPTIMIZERS:
        raise typer.BadParameter(f"there are {', '.join(OPTIMIZERS)}.", param_hint="--optimizer")
    if request.output == _STDOUT and request.as_json:
        raise typer.BadParameter("--json prints the plan as well.", param_hint="--output -")
    for path in (request.output, request.picture, request.overlay):
        check_place(None if path == _STDOUT else path)
    if request.picture is not None:
        check_picture(request.picture)
    exported = read_exported(request.source.model) if request.overlay is not None else None
    with one_document(request.output == _STDOUT):
        planned = _planned(request)
        budget = (
            budget_of(planned.gm, planned.plan, request.optimizer, chosen, planned.flow) if limit else None
        )
        if request.nodes or request.as_json:
            price_all(planned.flow, planned.gm, chosen)
        files = _files(request, planned, exported)
        if request.output == _STDOUT:
            say_document(planned.plan.to_json())
    if request.as_json:
        say_json(_data(planned, budget, limit) | {"files": files, "dry_run": request.dry_run})
    elif request.output != _STDOUT:
        _say(planned, budget, limit, request.nodes)
        if request.dry_run:
            typer.echo(nl=bool(files))
            say_unwritten(files)
        else:
            typer.echo("".join(f"\nwrote {path}" for path in files), nl=bool(files))


def _planned(request: ShowPlan) -> _Planned:
    """The plan that is asked for, or that a cut model has, and its graph, measured if that is asked."""
    opened, plan = open_model(request.source), request.plan
    if isinstance(opened.model, Decoupled):
        gm, call, chosen = _of_cut(opened.model, request)  # a file's graph may be another front-end's
    else:
        program = captured(opened, request.capture)
        assert program.example is not None
        read = read_plan(plan or verbs.DEFAULT_PLAN)
        chosen = read if isinstance(read, Plan) else verbs.plan(program, read)
        gm, call = verbs.training_graph(program), program.example
        refuse_misfit(gm, chosen)
    if request.print_after_all:
        show_planned(Printer(), gm, chosen)
    if request.measured:
        measure_shown(gm, call.leaves)
    flow = dataflow(gm)
    return _Planned(gm, flow, chosen, sheet_of(gm, chosen, flow))


def _of_cut(cut: Decoupled, request: ShowPlan) -> tuple[fx.GraphModule, Call, Plan]:
    given = {
        "--plan": request.plan,
        "--frontend": request.capture.frontend,
        "--carry": request.capture.carry,
    }
    if names := [name for name, value in given.items() if value]:
        raise DniError(
            f"this model is cut already, so {' and '.join(names)} would do nothing. Leave "
            f"{'it' if len(names) == 1 else 'them'} out to see its plan, or name the model it was cut from."
        )
    gm = verbs.cut_graph(cut).capture.module(verbs.recouple(cut))
    call = cutting_of(cut).program.example
    assert call is not None
    return gm, call, plan_of(cut)


def _files(request: ShowPlan, planned: _Planned, exported: ExportedProgram | None) -> dict[Path, int]:
    """Write the files that are asked for, a dry run in folders that vanish; their bytes."""
    with ExitStack() as stack:

        def place(path: Path) -> Path:
            return stack.enter_context(beside(path)) if request.dry_run else path

        written: dict[Path, Path] = {}
        if request.output is not None and request.output != _STDOUT:
            written[request.output] = place(request.output)
            write_whole(written[request.output], f"{planned.plan.to_json()}\n".encode())
        if request.picture is not None:
            written[request.picture] = place(request.picture)
            cost = "time" if planned.sheet.is_measured else "flops"
            write_picture(planned.gm, planned.plan, written[request.picture], cost=cost)
        if request.overlay is not None and exported is not None:
            for each in write_overlay(exported, planned.plan, place(request.overlay)):
                written[request.overlay.with_name(each.name)] = each
        return {path: at.stat().st_size for path, at in written.items()}


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
