"""What commands print and write."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any, TextIO, cast

import typer
from rich.console import Console
from rich.table import Table

from passes import Plan
from passes.bytes import show_bytes

_WIDE = 10_000
"""Columns that a file or a pipe has: enough for any line."""

_stdout: ContextVar[TextIO | None] = ContextVar("stdout", default=None)


@contextmanager
def one_document(wanted: bool) -> Generator[None]:
    """Inside, if it is wanted, only `say_document` prints on stdout; what anyone else prints is on stderr."""
    if not wanted:
        yield
        return
    token = _stdout.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout.reset(token)


def say_document(text: str) -> None:
    """Print the one document that stdout is for."""
    typer.echo(text, file=_stdout.get())


def say_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object; a number that JSON has no word for is null."""
    say_document(json.dumps(_plain(value), indent=1, allow_nan=False))


@contextmanager
def saying_warnings() -> Generator[None]:
    """Inside, what Python's `warnings` tell goes to stderr as what this tool says itself, each text once."""
    told: set[str] = set()

    def show(message: Warning | str, *place: object, **more: object) -> None:
        if (text := str(message)) not in told:
            told.add(text)
            typer.echo(f"dni-fx: warning: {text}", err=True)

    before = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def say_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under headings; numbers to the right. Nothing is cut off, whatever the width."""
    rows = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
    for at, name in enumerate(columns):
        is_number = all(isinstance(row[at], int) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row in rows:
        table.add_row(*[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row])
    width = None if sys.stdout.isatty() else _WIDE
    Console(markup=False, highlight=False, emoji=False, width=width).print(table)


def say_nodes(rows: Iterable[Mapping[str, Any]], plan: Plan) -> None:
    """Print what each node costs, and the stage that it is in."""
    columns = ("stage", "value", "FLOPs", "backward", "ms", "parameters", "saved", "size", "synthesizer")
    say_table(
        columns,
        [
            [
                plan.stage_of.get(row["anchor"], "-"),
                row["anchor"],
                row["flops"],
                row["backward_flops"],
                "-" if row["seconds"] is None else f"{1e3 * row['seconds']:.3f}",
                *(show_bytes(row[name]) for name in ("parameter_bytes", "saved", "bytes")),
                show_bytes(row["synthesizer_bytes"]) if row["synthesizer_bytes"] else "-",
            ]
            for row in rows
        ],
    )


def _plain(value: Any) -> Any:
    """The same in what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("Sequence[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
