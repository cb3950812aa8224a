"""What there is to choose from."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from dni_fx.cli import options
from dni_fx.cli.output import say_json
from dni_fx.describe import FAMILIES, Entry, catalog

NAME = "list"
EXAMPLE = "dni-fx list synthesizers"


def run(
    family: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help=f"One of {', '.join(FAMILIES)}.", show_default=False),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List what can be chosen by name.

    Each with its options at their defaults, and what it is.
    """
    if family is not None and family not in FAMILIES:
        close = difflib.get_close_matches(family, FAMILIES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise typer.BadParameter(f"{family!r} is none of {', '.join(FAMILIES)}.{hint}", param_hint="KIND")
    shown = {name: list(catalog(name)) for name in ([family] if family else FAMILIES)}
    if as_json:
        say_json(shown)
        return
    for name, entries in shown.items():
        typer.echo(name)
        for entry in entries:
            typer.echo(f"  {_form(entry)}\n      {entry.about}")


def _form(entry: Entry) -> str:
    """The text form with every option at its default."""
    given = ",".join(f"{name}={_text(value)}" for name, value in entry.options.items())
    return f"{entry.name}:{given}" if given else entry.name


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value == () else str(value)
