"""`dni-fx list`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from dni_fx.cli.commands.base import Request
from dni_fx.cli.completion import TABLES, complete_family


@dataclass(frozen=True, kw_only=True)
class List(Request):
    """List what can be chosen by name.

    Each with its options at their defaults, and what it is.
    """

    name = "list"
    example = "dni-fx list synthesizers"
    work = "list_"

    family: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help=f"One of {', '.join(TABLES)}.",
            show_default=False,
            autocompletion=complete_family,
        ),
    ] = None
