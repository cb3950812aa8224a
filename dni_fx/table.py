"""Tables of text that fit a width: what is too long is shortened in the middle, and nothing wraps."""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_GAP = 2
_NARROWEST = 8
_SHORTEST = 3
"""Letters of a part of a path that stay, the `*` among them."""
_WIDTH = 100
"""Columns of a page where there is no terminal to ask."""


@dataclass(frozen=True)
class Column:
    """One column: its heading, whether it holds numbers (to the right), whether it may be shortened."""

    heading: str
    is_number: bool = False
    may_shrink: bool = False


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """The rows under their headings, one line each, no longer than `width` if shortening can help it.

    Without a width it is that of the terminal, and 100 where there is none.
    """
    from rich.console import Console  # a plan is often made and never printed
    from rich.table import Table

    width = page_width() if width is None else width
    widths = _fitted(columns, rows, width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for column, wide in zip(columns, widths, strict=True):
        table.add_column(
            shorten(column.heading, wide), justify="right" if column.is_number else "left", no_wrap=True
        )
    for row in rows:
        table.add_row(*[shorten(cell, wide) for cell, wide in zip(row, widths, strict=True)])
    page = io.StringIO()
    room = sum(widths) + _GAP * len(widths)
    Console(file=page, width=room, markup=False, highlight=False, emoji=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def page_width() -> int:
    """How many letters fit into a line of the terminal; 100 where stdout is none."""
    return shutil.get_terminal_size((_WIDTH, 24)).columns if sys.stdout.isatty() else _WIDTH


def shorten(path: str, width: int) -> str:
    """The path, with `*` for letters left out of its longest parts if it is longer than `width`.

    Numbers of layers stay as long as anything can give way. The result is a pattern that matches the path.

    >>> shorten("transformer_encoder.layers.11.attention:layer_norm", 36)
    'tran*der.layers.11.atte*ion:laye*orm'
    """
    parts = re.split(r"([.:@])", path)
    kept = [len(part) for part in parts]
    for _ in range(len(path) - width):
        longest = max(range(len(parts)), key=kept.__getitem__)
        if kept[longest] <= _SHORTEST:
            return _elided(path, width)
        kept[longest] -= 1
    return "".join(map(_elided, parts, kept))


def _elided(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}*{text[len(text) - tail :]}"


def _fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The width of each column: that of its longest cell, less what the widest ones must give."""
    widths = [
        max(len(column.heading), *(len(row[at]) for row in rows)) if rows else len(column.heading)
        for at, column in enumerate(columns)
    ]
    shrinking = [at for at, column in enumerate(columns) if column.may_shrink]
    for _ in range(sum(widths) + _GAP * (len(widths) - 1) - width):
        widest = max(shrinking, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths
