"""`dni-fx diff`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from dni_fx.cli.commands.base import Request
from dni_fx.cli.commands.options import AllowPickle

_SIDE = "A .pt2 file, a state dict (.safetensors or .pt), a plan.json, or package.module:factory."


@dataclass(frozen=True, kw_only=True)
class Diff(Request):
    """Show in what two files differ.

    In their graphs, in where they are cut and by what, and in their weights: which parameters differ, and by
    how much. Compared is what both files hold; code beside a cut file as that file would hold it. Exits 0 if
    it is equal to the bit, and 1 if it is not.
    """

    name = "diff"
    example = "dni-fx diff dni_fx.demo:mlp dni_fx.demo:mlp"
    work = "diff"

    one: Annotated[str, typer.Argument(metavar="ONE", help=_SIDE, show_default=False)]
    other: Annotated[str, typer.Argument(metavar="OTHER", help=_SIDE, show_default=False)]
    allow_pickle: AllowPickle = False
