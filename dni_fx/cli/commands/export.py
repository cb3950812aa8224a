"""`dni-fx export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dni_fx.cli.commands.base import Request
from dni_fx.cli.commands.options import CutRequest, DryRun, ModelRequest
from dni_fx.cli.completion import completing


@dataclass(frozen=True, kw_only=True)
class Export(Request):
    """Write a cut model in another format.

    It is the inference graph, and shows the boundaries as nodes. The file, or the folder of stages, is
    compared with PyTorch before it is put in its place; --dry-run does that in a temporary folder beside it.
    """

    name = "export"
    example = "dni-fx export dni_fx.demo:mlp --plan balanced:stages=3 -o model.onnx"
    work = "export"

    source: ModelRequest
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The .onnx file to write; for onnx-stages a folder.",
            show_default=False,
        ),
    ]
    exporter: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="The format, such as onnx:opset=20 or onnx-stages.",
            autocompletion=completing("exporters"),
        ),
    ] = "onnx"
    cut: CutRequest
    dry_run: DryRun = False
