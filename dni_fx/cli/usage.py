"""Options that would do nothing as they are given."""

from __future__ import annotations

from collections.abc import Mapping

import typer


def refuse_idle(options: Mapping[str, object], why: str, remedy: str = "") -> None:
    """Do nothing if none of these options was given, which would do nothing here.

    `why` says what makes them idle, and `remedy` what could be done instead of leaving them out.

    Raises:
        typer.BadParameter: some were given; names them.
    """
    if names := [name for name, value in options.items() if value]:
        listed = " and ".join(names)
        raise typer.BadParameter(
            f"{why}, so {listed} would do nothing. Leave {'it' if len(names) == 1 else 'them'} out{remedy}.",
            param_hint=listed,
        )
