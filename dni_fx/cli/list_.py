"""What there is to choose from."""

from __future__ import annotations

import difflib

import typer

from dni_fx.cli.commands.list_ import List
from dni_fx.cli.output import say_json
from dni_fx.describe import FAMILIES, Entry, catalog


def run(request: List) -> None:
    """List one family, or all of them."""
    family = request.family
    if family is not None and family not in FAMILIES:
        close = difflib.get_close_matches(family, FAMILIES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise typer.BadParameter(f"{family!r} is none of {', '.join(FAMILIES)}.{hint}", param_hint="KIND")
    shown = {name: list(catalog(name)) for name in ([family] if family else FAMILIES)}
    if request.as_json:
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
