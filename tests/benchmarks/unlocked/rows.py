"""From a net and ways to train it to the rows of a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from tests.benchmarks.unlocked.measures import CLOCKS, Job, Learned, Memory, memory_of, trained
from tests.benchmarks.unlocked.meters import isolated
from tests.benchmarks.unlocked.records import Book
from tests.benchmarks.unlocked.settings import Setting
from tests.benchmarks.unlocked.ways import Way

BASE = "backprop"
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """All that is known of one way; None where it failed, and `failed` says why."""

    way: Way
    memory: Memory | None
    learned: Learned | None
    failed: str = ""

    def time(self, clock: str, of: Any = statistics.median) -> float:
        """Seconds of a step."""
        return of(self.learned.times[clock]) if self.learned else float("nan")

    def bytes(self, kind: str) -> float:
        """A figure of its memory."""
        found = getattr(self.memory, kind, None)
        return float("nan") if found is None else float(found)

    @property
    def loss(self) -> float:
        """What it reached."""
        return self.learned.loss if self.learned else float("nan")


def rows(
    book: Book, setting: Setting, ways: Sequence[Way], seconds: float, clock: str, points: int = 1
) -> list[Row]:
    """Each way's memory, in a process of its own, and what all reach side by side in the same time."""
    setting.load()  # once for all processes
    memory, failed = {}, {}
    for way in ways:
        key = f"memory {setting.key} {way.key}"
        memory[way] = book.figures(key, lambda way=way: asdict(isolated(memory_of, setting, way)))
        failed[way] = book.failed.get(key, "")
    able = [way for way in ways if memory[way]]
    known = learned(book, [(setting, way) for way in able], seconds, clock, points)
    return [
        Row(way, Memory(**memory[way]) if memory[way] else None, known.get((setting, way)), failed[way])
        for way in ways
    ]


def learned(
    book: Book, jobs: Sequence[Job], seconds: float, clock: str, points: int = 1
) -> dict[Job, Learned]:
    """What each of these reaches in the same time; nothing if they cannot be trained side by side."""
    key = f"training {seconds} {clock} {points} " + "; ".join(f"{s.key} {way.key}" for s, way in jobs)
    found = book.figures(
        key, lambda: [asdict(each) for each in isolated(trained, jobs, seconds, clock, points)]
    )
    return {job: Learned(**each) for job, each in zip(jobs, found or [], strict=False)}


MEMORY = {"live": "live MiB", "activations": "without gradients", "process": "process"}
KEPT = {"kept": "kept", "cutting": "cutting"}


def table(setting: Setting, found: Sequence[Row], seconds: float, clock: str) -> Table:
    """Memory, time and loss of each way; `x` is by backprop's."""
    made = Table(
        Column(no_wrap=True),
        title=f"{setting}; losses after {seconds:g} s of {clock} time",
        title_justify="left",
    )
    for name in MEMORY.values():
        made.add_column(name, justify="right")
        made.add_column("x", justify="right")
    for name in (*KEPT.values(), *(f"{name} ms" for name in CLOCKS)):
        made.add_column(name, justify="right")
        if name.endswith("ms"):
            for of in ("x", "least", "x"):
                made.add_column(of, justify="right")
    for name in ("steps", "loss"):
        made.add_column(name, justify="right")
    base = next((row for row in found if row.way.name == BASE), None)
    for row in found:
        cells = [] if row.failed else [*_memory_cells(row, base), *_time_cells(row, base)]
        made.add_row(f"{row.way}{': not available' if row.failed else ''}", *cells)
    return made


def _memory_cells(row: Row, base: Row | None) -> list[str]:
    cells = []
    for kind in MEMORY:
        cells += [number(row.bytes(kind) / MIB, 1), ratio(row.bytes(kind), base and base.bytes(kind))]
    return cells + [number(row.bytes(kind) / MIB, 1) for kind in KEPT]


def _time_cells(row: Row, base: Row | None) -> list[str]:
    cells = []
    for clock in CLOCKS:
        for of in (statistics.median, min):
            spent = row.time(clock, of)
            cells += [number(1e3 * spent, 1), ratio(spent, base and base.time(clock, of))]
    steps = len(row.learned.times["wall"]) if row.learned else 0
    return [*cells, str(steps), number(row.loss, 4)]


def number(figure: float, digits: int) -> str:
    """A figure as text; a dash where there is none.

    >>> number(1.25, 1), number(float("nan"), 1)
    ('1.2', '-')
    """
    return "-" if math.isnan(figure) else f"{figure:,.{digits}f}"


def ratio(figure: float, base: float | None) -> str:
    """One by the other, as text."""
    return number(figure / base, 3) if base else "-"


def show(*made: Table, remarks: Sequence[str] = ()) -> None:
    """Print tables, and what is to be said besides."""
    console = Console(width=200)
    for each in made:
        console.print(each)
    for remark in remarks:
        console.print(remark, markup=False, highlight=False)


def remarks(found: Sequence[Row]) -> list[str]:
    """Why a row has no figures."""
    return [f"{row.way} is not available: {row.failed}" for row in found if row.failed]
