"""`dni-fx decouple`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dni_fx.cli.commands.base import Request
from dni_fx.cli.commands.options import AllowEvalGraph, CutRequest, DryRun, ModelRequest, PrintAfterAll


@dataclass(frozen=True, kw_only=True)
class Decouple(Request):
    """Cut a model into stages and save it.

    The file holds graphs, weights, synthesizers and the plan.
    """

    name = "decouple"
    example = (
        "dni-fx decouple dni_fx.demo:mlp --plan balanced:stages=3 --synthesizer mlp:hidden=64 -o cut.pt2"
    )
    work = "decouple"

    source: ModelRequest
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The .pt2 file to write.", show_default=False),
    ]
    cut: CutRequest
    allow_eval_graph: AllowEvalGraph = False
    print_after_all: PrintAfterAll = False
    dry_run: DryRun = False
