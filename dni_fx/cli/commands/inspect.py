"""`dni-fx inspect`."""

from __future__ import annotations

from dataclasses import dataclass

from dni_fx.cli.commands.base import Request
from dni_fx.cli.commands.options import CutRequest, ModelRequest, PrintAfterAll


@dataclass(frozen=True, kw_only=True)
class Inspect(Request):
    """Show what is in a file or a model.

    That is its size and its graph and, where it is cut, stages and boundaries. A model that is not cut is
    shown as --plan and the like would cut it. Of an exported program it is told in which mode (train or eval)
    it was exported.
    """

    name = "inspect"
    example = "dni-fx inspect dni_fx.demo:mlp"
    work = "inspect"

    source: ModelRequest
    cut: CutRequest
    print_after_all: PrintAfterAll = False
