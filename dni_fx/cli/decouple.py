"""Cut a model and save it."""

from __future__ import annotations

import typer

from dni_fx import verbs
from dni_fx.cli.after_all import printer
from dni_fx.cli.commands.decouple import Decouple
from dni_fx.cli.fixed_batch import fixed_batch, say_fixed
from dni_fx.cli.models import Opened, cut_model, open_model
from dni_fx.cli.output import say_json
from dni_fx.cli.places import check_name
from dni_fx.cli.rehearsal import check_saved, say_unwritten
from dni_fx.cli.usage import refuse_idle
from dni_fx.crossing import crossings_of
from dni_fx.decoupled import Decoupled
from dni_fx.errors import DniError
from dni_fx.files import check_place
from dni_fx.program import Program
from dni_fx.single_mode import refuse_eval_graph
from passes.words import counted


def run(request: Decouple) -> None:
    """Write the file, and say what is in it."""
    check_name(request.output, (".pt2",))
    check_place(request.output)
    opened = open_model(request.source)
    if isinstance(opened.model, Decoupled):
        raise DniError("this model is cut already. Name the model that it was cut from.")
    refuse_untrainable(opened, request.allow_eval_graph)
    cut = cut_model(opened, request.cut, printer(request.print_after_all))
    if request.dry_run:
        size = check_saved(cut)
    else:
        verbs.save(cut, request.output)
        size = request.output.stat().st_size
    _say(request, cut, size)


def refuse_untrainable(opened: Opened, allowed: bool) -> None:
    """Do nothing if the model is not a graph for eval mode alone, or that is allowed.

    Raises:
        typer.BadParameter: it is allowed, and there is no exported graph.
        CaptureError: it is.
    """
    if not isinstance(opened.model, Program):
        refuse_idle({"--allow-eval-graph": allowed}, "MODEL is no graph that torch.export.save wrote")
    elif not allowed:
        refuse_eval_graph(opened.model, "add --allow-eval-graph")


def _say(request: Decouple, cut: Decoupled, size: int) -> None:
    graph, stages = verbs.cut_graph(cut), len(verbs.stages(cut))
    specs, batch = graph.specs, fixed_batch(graph)
    if request.as_json:
        say_json(
            {
                "file": request.output,
                "bytes": size,
                "dry_run": request.dry_run,
                "stages": stages,
                "fixed_batch": batch,
                "boundaries": [each for spec in specs for each in crossings_of(spec)],
            }
        )
        return
    if request.dry_run:
        say_unwritten({request.output: size}, about=True)
    typer.echo(
        f"{'it would have' if request.dry_run else f'wrote {request.output}:'} {counted(stages, 'stage')}, "
        f"{counted(len(specs), 'boundary')}"
    )
    for spec in specs:
        values = " + ".join(map(str, crossings_of(spec)))
        typer.echo(f"  {spec.name}: {values}, {verbs.boundaries(cut)[spec.name].synthesizer}")
    say_fixed(batch)
