"""`dni-fx recouple`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dni_fx.cli.commands.base import Request
from dni_fx.cli.commands.options import DryRun, ModelRequest


class Mode(StrEnum):
    """The mode that a graph is for, which is part of its operations."""

    EVAL = "eval"
    TRAIN = "train"


@dataclass(frozen=True, kw_only=True)
class Recouple(Request):
    """Turn a cut model back into the plain one.

    The interfaces are gone, and the trained weights stay under their own names. A .pt2 file holds graph and
    weights, and torch.export.load opens it; .safetensors and .pt hold the state dict alone, for
    model.load_state_dict.
    """

    name = "recouple"
    example = "dni-fx recouple cut.pt2 -o model.pt2"
    work = "recouple"

    source: ModelRequest
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write: .pt2, .safetensors or .pt.",
            show_default=False,
        ),
    ]
    mode: Annotated[
        Mode, typer.Option(help="Of the graph in a .pt2 file: the one to run, or the one to train.")
    ] = Mode.EVAL
    dry_run: DryRun = False
