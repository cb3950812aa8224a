"""Where a policy would cut."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer
from torch.export import ExportedProgram

from dni_fx.budget import OPTIMIZERS, Budget, budget_of
from dni_fx.cli.commands.plan import ShowPlan
from dni_fx.cli.models import read_exported
from dni_fx.cli.output import one_document, say_document, say_json, say_nodes
from dni_fx.cli.planned import Planned, planned_as
from dni_fx.cli.rehearsal import beside, say_unwritten
from dni_fx.cli.usage import refuse_idle
from dni_fx.errors import DniError
from dni_fx.files import check_place, write_whole
from dni_fx.overlay import write_overlay
from dni_fx.picture import check_picture, write_picture
from dni_fx.pricing import price_all
from dni_fx.synthesizers import SYNTHESIZERS
from passes import parse
from passes.bytes import parse_bytes
from passes.costs import node_table

_STDOUT = Path("-")


def run(request: ShowPlan) -> None:
    """Print the plan as a table, and write what is asked for."""
    limit = parse_bytes(request.memory) if request.memory else 0
    optimizer = request.optimizer or "adam"
    chosen = parse(request.synthesizer or "auto", SYNTHESIZERS)
    if optimizer not in OPTIMIZERS:
        raise typer.BadParameter(f"there are {', '.join(OPTIMIZERS)}.", param_hint="--optimizer")
    _refuse(request)
    _refuse_one_place(request)
    if request.picture is not None:
        check_picture(request.picture)
    exported = read_exported(request.source.model) if request.overlay is not None else None
    with one_document(request.output == _STDOUT):
        planned = planned_as(
            request.source, request.plan, request.capture, request.measured, show=request.print_after_all
        )
        budget = budget_of(planned.gm, planned.plan, optimizer, chosen, planned.flow) if limit else None
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


def _refuse_one_place(request: ShowPlan) -> None:
    """Do nothing if each file can be written, and has a place of its own.

    Raises:
        FileError: one cannot.
        DniError: one would be written over another.
    """
    asked = {"--output": request.output, "--picture": request.picture, "--overlay": request.overlay}
    taken: dict[Path, str] = {}
    for option, path in asked.items():
        if path is None or path == _STDOUT:
            continue
        check_place(path)
        if (other := taken.setdefault(path.resolve(), option)) != option:
            raise DniError(f"{other} and {option} are both {path}: name two files.")


def _refuse(request: ShowPlan) -> None:
    """Do nothing if every option has something to do.

    Raises:
        typer.BadParameter: one has not.
    """
    if request.output == _STDOUT and request.as_json:
        raise typer.BadParameter("--json prints the plan as well.", param_hint="--output -")
    if not request.memory:
        refuse_idle({"--optimizer": request.optimizer}, "without --memory no memory is predicted")
        if not (request.nodes or request.as_json):
            refuse_idle(
                {"--synthesizer": request.synthesizer},
                "without --memory, --nodes or --json none is priced, and the plan is the same for all",
            )
    if request.output in {None, _STDOUT} and request.picture is None and request.overlay is None:
        refuse_idle(
            {"--dry-run": request.dry_run},
            "no file is written without --output FILE, --picture or --overlay",
        )


def _files(request: ShowPlan, planned: Planned, exported: ExportedProgram | None) -> dict[Path, int]:
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
            write_picture(planned.gm, planned.fitted, written[request.picture], cost=cost)
        if request.overlay is not None and exported is not None:
            for each in write_overlay(exported, planned.plan, place(request.overlay)):
                written[request.overlay.with_name(each.name)] = each
        return {path: at.stat().st_size for path, at in written.items()}


def _data(planned: Planned, budget: Budget | None, limit: int) -> dict[str, Any]:
    data: dict[str, Any] = {
        "plan": json.loads(planned.plan.to_json()),
        "sheet": planned.sheet.data(),
        "nodes": node_table(planned.flow),
    }
    return data if budget is None else data | {"memory": budget.data(limit)}


def _say(planned: Planned, budget: Budget | None, limit: int, nodes: bool) -> None:
    if nodes:
        say_nodes(node_table(planned.flow), planned.plan)
        typer.echo()
    typer.echo(str(planned.sheet))
    if budget is not None:
        typer.echo(f"\n{budget.table(limit)}")
