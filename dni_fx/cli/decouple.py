"""Cut a model and save it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dni_fx import verbs
from dni_fx.cli import options
from dni_fx.cli.models import cut_model, open_model
from dni_fx.cli.options import CutRequest, ModelRequest
from dni_fx.cli.output import save, say_json
from dni_fx.crossing import crossings_of
from dni_fx.decoupled import Decoupled
from dni_fx.errors import DniError
from dni_fx.files import check_place

NAME = "decouple"
EXAMPLE = "dni-fx decouple dni_fx.demo:mlp --plan balanced:stages=3 --synthesizer mlp:hidden=64 -o cut.pt2"


def run(
    model: options.ModelText,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The .pt2 file to write.", show_default=False),
    ],
    weights: options.Weights = None,
    example: options.Example = "",
    allow_pickle: options.AllowPickle = False,
    plan: options.PlanText = None,
    synthesizer: options.SynthesizerText = None,
    interface: options.InterfaceText = None,
    frontend: options.FrontEndText = None,
    as_json: options.AsJson = False,
) -> None:
    """Cut a model into stages and save it.

    The file holds graphs, weights, synthesizers and the plan.
    """
    check_place(output)
    opened = open_model(ModelRequest(model, weights, example, allow_pickle))
    if isinstance(opened.model, Decoupled):
        raise DniError("this model is cut already. Name the model that it was cut from.")
    cut = cut_model(opened, CutRequest.of(plan, synthesizer, interface, frontend))
    save(cut, output)
    specs = verbs.cut_graph(cut).marked.specs
    if as_json:
        say_json(
            {
                "file": str(output),
                "stages": len(verbs.stages(cut)),
                "boundaries": [each for spec in specs for each in crossings_of(spec)],
            }
        )
        return
    typer.echo(f"wrote {output}: {len(verbs.stages(cut))} stages, {len(specs)} boundaries")
    for spec in specs:
        values = " + ".join(map(str, crossings_of(spec)))
        typer.echo(f"  {spec.name}: {values}, {verbs.boundaries(cut)[spec.name].synthesizer}")
