"""What a file that is to be written is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer


def check_name(path: Path, suffixes: Sequence[str]) -> None:
    """Do nothing if the name says what will be in the file, so that whoever reads it can tell.

    Raises:
        typer.BadParameter: it is `-`, or has none of the suffixes.
    """
    if path == Path("-"):
        raise typer.BadParameter("cannot write a binary file to stdout; name a file.", param_hint="--output")
    if suffixes and path.suffix not in suffixes:
        *first, last = suffixes
        known = f"{', '.join(first)} or {last}" if first else last
        raise typer.BadParameter(f"{path} is to be a {known} file.", param_hint="--output")
