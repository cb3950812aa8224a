"""The table of the zoo's tool, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from tests.zoo.checks import CHECKS, Row

_LONG = 600
"""Characters of a failure that are shown; the file holds all."""

_NUMBERS = ("nodes", "stages", "boundaries", "graphs")


def table_of(rows: Sequence[Row]) -> Table:
    """A line for each model: how it was captured and cut, and which checks hold."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("name", "type", "by"):
        table.add_column(name, no_wrap=True)
    for name in _NUMBERS:
        table.add_column(name, justify="right")
    for name in CHECKS:
        table.add_column(name)
    table.add_column("s", justify="right")
    for row in rows:
        numbers = [str(getattr(row, name) or "-") for name in _NUMBERS]
        held = [_mark(row, name) for name in CHECKS]
        table.add_row(row.name, row.dtype, row.frontend or "-", *numbers, *held, f"{row.seconds:.1f}")
    return table


def _mark(row: Row, check: str) -> str:
    if check not in row.checks:
        return "-"
    return "ok" if row.checks[check] else "FAIL"


def summary(rows: Sequence[Row]) -> str:
    """How many models hold all checks, then what failed, a paragraph for each model that failed."""
    good = sum(not row.failed for row in rows)
    lines = [f"{good} of {len(rows)} hold all checks, in {sum(row.seconds for row in rows):.0f} s"]
    for row in rows:
        for check, said in row.failed.items():
            lines += [f"{row.name} ({row.dtype}), {check}: {said}"[:_LONG]]
    return "\n".join(lines)


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as a JSON list."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")
