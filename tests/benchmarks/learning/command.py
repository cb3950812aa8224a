"""What the commands have in common: their options, and from tasks to runs to tables."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tests.benchmarks.learning.data import Data
from tests.benchmarks.learning.jobs import Group, Job, Task
from tests.benchmarks.learning.pool import carried_out, default_processes
from tests.benchmarks.learning.records import Run, load, save
from tests.benchmarks.learning.report import remarks, tables
from tests.benchmarks.learning.rows import BACKPROP, ROWS, Regression, Row, rows
from tests.benchmarks.learning.runs import say

ALL = tuple(row.name for row in ROWS)


def options_of(doc: str | None, regression: Regression, rows: Sequence[str] = ALL) -> argparse.ArgumentParser:
    """A parser with the options that say what is run, and these defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, metavar="FILE", help="what is learned; something small if not given")
    add("--json", type=Path, metavar="FILE", help="keeps the runs; those in it are not run again")
    add("--seeds", type=int, default=3)
    said = "names with commas between, or texts of synthesizers such as mlp:depth=2, which see the labels"
    add("--rows", nargs="+", default=[",".join(rows)], metavar="NAMES", help=said)
    add("--dni", default=regression.unconditional, metavar="TEXT", help="the synthesizer of DNI")
    add("--cdni", default=regression.conditional, metavar="TEXT", help="the synthesizer of cDNI")
    add("--dni-interface", default=regression.interface, metavar="TEXT", help="that of DNI and cDNI")
    add("--dni-pace", type=float, default=regression.pace, help="the rate of DNI by that of the others")
    add("--interface", default="dni", metavar="TEXT", help="that of the other rows")
    add("--jobs", type=int, default=default_processes(), help="processes; one a core if not given")
    add("--steps", type=int, help="of a run")
    return parser


def add_training(parser: argparse.ArgumentParser, batch: int = 256, lr: float = 1e-3) -> None:
    """Options that say how a net is trained."""
    parser.add_argument("--points", type=int, default=20, help="how often a run is judged")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--no-decay", dest="decay", action="store_false", help="keep the rate constant")


def steps_of(options: argparse.Namespace, data: Data) -> int:
    """How many steps a run has: as many as asked for, or those of all epochs."""
    return options.steps or options.epochs * data.epoch(options.batch)


def rows_of(options: argparse.Namespace) -> list[Row]:
    """The rows that are asked for."""
    regression = Regression(options.dni, options.cdni, options.dni_interface, options.dni_pace)
    return rows(names_of(options.rows), regression, options.interface)


def names_of(given: Sequence[str]) -> list[str]:
    """Names that stand between commas, or alone.

    >>> names_of(["zero,linear", "mlp:hidden=3,depth=2"])
    ['zero', 'linear', 'mlp:hidden=3,depth=2']
    """
    return [name for each in given for name in ([each] if ":" in each else each.split(","))]


def runs_of(tasks: Sequence[Task], options: argparse.Namespace, equal_time: bool = True) -> list[Run]:
    """The runs of every task, row and seed, from the file or run now, and kept in the file one by one.

    With `equal_time` every other row goes on, after its steps, until it has trained for as long as backprop.
    """
    by_seed = [
        [Job(task, row, seed) for task in tasks for row in rows_of(options)] for seed in range(options.seeds)
    ]
    known = load(options.json)
    groups = [group for jobs in by_seed for group in _groups(jobs, known, equal_time)]
    total = sum(len(group.others) + (group.first is not None) for group in groups)
    start = time.monotonic()
    for number, run in enumerate(carried_out(groups, options.jobs), start=1):
        known[run.key] = run
        save(options.json, known.values())
        spent = (time.monotonic() - start) / 60
        left = spent * (total - number) / number
        say(
            f"{number} of {total} runs, {spent:.1f} min, about {left:.1f} min left: "
            f"{run.setting}, {run.row}, seed {run.seed}: {run.failed or _result(run)}"
        )
    jobs = sorted((job for jobs in by_seed for job in jobs), key=lambda job: tasks.index(job.task))
    return [replace(known[job.key], setting=job.task.setting, row=job.row.name) for job in jobs]


def show(runs: Sequence[Run]) -> None:
    """Print the tables of runs, and what is to be said of them besides."""
    console = Console(width=180)
    for table in tables(runs):
        console.print(table)
    for remark in dict.fromkeys(remarks(runs)):
        console.print(remark, markup=False, highlight=False)


def _groups(jobs: Sequence[Job], known: Mapping[str, Run], equal_time: bool) -> Iterator[Group]:
    """What is missing of the runs of one seed, each with the backprop that sets its time."""
    missing = {job.key: job for job in jobs if job.key not in known or known[job.key].failed}
    base = {job.task: job for job in jobs if job.row.name == BACKPROP.name} if equal_time else {}
    firsts = {job.key: job for job in base.values()}
    waiting: dict[str, list[Job]] = {key: [] for key in firsts}
    alone: list[Job] = []
    for key, job in missing.items():
        if key not in firsts:
            (waiting[base[job.task].key] if job.task in base else alone).append(job)
    for key, first in firsts.items():
        seconds = 0.0 if key in missing else known[key].seconds
        yield Group(first if key in missing else None, tuple(waiting[key]), seconds)
    yield Group(None, tuple(alone))


def _result(run: Run) -> str:
    last = run.points[-1]
    reached = f"loss {last.validation:.4f}, error {100 * last.error:.2f} %"
    return f"{reached} after {run.steps:,} steps, {run.seconds:.0f} s"
