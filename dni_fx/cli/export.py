"""Write a cut model for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dni_fx import verbs
from dni_fx.cli import options
from dni_fx.cli.models import cut_model, open_model
from dni_fx.cli.options import CutRequest, ModelRequest
from dni_fx.cli.output import say_json
from dni_fx.exporters import EXPORTERS
from passes import parse

NAME = "export"
EXAMPLE = "dni-fx export dni_fx.demo:mlp --plan balanced:stages=3 -o model.onnx"


def run(
    model: options.ModelText,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="PATH", help="The file to write, or the folder.", show_default=False
        ),
    ],
    exporter: Annotated[
        str, typer.Option(metavar="SPEC", help="The format, such as onnx:opset=20 or onnx-stages.")
    ] = "onnx",
    weights: options.Weights = None,
    example: options.Example = "",
    allow_pickle: options.AllowPickle = False,
    plan: options.PlanText = None,
    synthesizer: options.SynthesizerText = None,
    interface: options.InterfaceText = None,
    frontend: options.FrontEndText = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a cut model in another format.

    It is the inference graph, and shows the boundaries as nodes.
    """
    chosen = parse(exporter, EXPORTERS)
    chosen.check_place(output)
    opened = open_model(ModelRequest(model, weights, example, allow_pickle))
    cut = cut_model(opened, CutRequest.of(plan, synthesizer, interface, frontend))
    written = verbs.export(cut, output, exporter=chosen, inputs=opened.example)
    if as_json:
        say_json(vars(written))
    else:
        typer.echo(f"wrote {written}")
