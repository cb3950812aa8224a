"""The table of the zoo's tool, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from tests.zoo.checks import CHECKS, Row
from tests.zoo.round_trip import STEPS, Trip

_LONG = 600
"""Characters of a failure that are shown; the file holds all."""

_TEXTS = ("name", "dtype", "frontend")
_NUMBERS = ("nodes", "stages", "boundaries", "graphs")
_TRIP_NUMBERS = ("stages", "boundaries", "interfaces", "nodes", "apart", "noise")


def table_of(rows: Sequence[Row]) -> Table:
    """A line for each model: how it was captured and cut, and which checks hold."""
    return _table(rows, _TEXTS, _NUMBERS, tuple(CHECKS))


def trips_of(rows: Sequence[Trip], steps: Iterable[str] = STEPS) -> Table:
    """A line for each model: what its file shows, how far outputs are apart, the steps it came through."""
    return _table(rows, _TEXTS[:2], _TRIP_NUMBERS, tuple(steps))


def _table(
    rows: Sequence[Row | Trip], texts: Sequence[str], numbers: Sequence[str], checks: Sequence[str]
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in texts:
        table.add_column({"dtype": "type", "frontend": "by"}.get(name, name), no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    for name in checks:
        table.add_column(name)
    table.add_column("s", justify="right")
    for row in rows:
        cells = [_cell(getattr(row, name)) for name in (*texts, *numbers)]
        table.add_row(*cells, *[_mark(row, name) for name in checks], f"{row.seconds:.1f}")
    return table


def _cell(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.1e}"
    return str(value or "-")


def _mark(row: Row | Trip, check: str) -> str:
    if check not in row.checks:
        return "-"
    return "ok" if row.checks[check] else "FAIL"


def summary(rows: Sequence[Row | Trip]) -> str:
    """How many models hold all checks, then what failed, a paragraph for each model that failed."""
    good = sum(not row.failed for row in rows)
    lines = [f"{good} of {len(rows)} hold all checks, in {sum(row.seconds for row in rows):.0f} s"]
    for row in rows:
        for check, said in row.failed.items():
            lines += [f"{row.name} ({row.dtype}), {check}: {said}"[:_LONG]]
    return "\n".join(lines)


def write(rows: Sequence[Row | Trip], path: Path) -> None:
    """Write the rows as a JSON list."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")
