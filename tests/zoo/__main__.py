"""Capture, cut and check the models of the zoo: `python -m tests.zoo [PATTERN ...]`.

With --round-trip: cut, save, load, verify, export and run each in onnxruntime, whole and stage by stage.
With --training-export: cut, write a training step, and train by it without PyTorch, exact and decoupled.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from tests.silence import silence
from tests.zoo.checks import FAMILIES, Subject, examine, subjects
from tests.zoo.lessons import OPTIMIZERS, lessons
from tests.zoo.round_trip import STEPS, first_dtype, travel
from tests.zoo.table import summary, table_of, trips_of, write


def main(given: Sequence[str] | None = None) -> int:
    """Print the table; 0 if all checks of all models hold, 1 if not, 2 if no model has such a name."""
    options = _parser().parse_args(given)
    chosen = _chosen(options)
    if not chosen:
        print(
            f"no model of the zoo is called {' or '.join(options.names)}; --list names them", file=sys.stderr
        )
        return 2
    if options.list:
        print("\n".join(dict.fromkeys(subject.name for subject in chosen)))
        return 0
    steps = STEPS if options.round_trip else None
    if options.training_export:
        steps = lessons(options.optimizer)
    ask: Callable[..., Any] = examine if steps is None else partial(travel, steps=steps)
    if steps is not None:
        chosen = [subject for subject in chosen if subject.dtype == first_dtype(subject)]
    rows: list[Any] = []
    for row in _examined(chosen, lambda subject: ask(subject, options.plan, options.stages)):
        rows.append(row)
        if options.json:  # what was found is there, also of a run that is cut short
            write(rows, options.json)
    out = Console(markup=False, highlight=False, emoji=False)
    out = out if out.is_terminal else Console(markup=False, highlight=False, emoji=False, width=_WIDE)
    out.print(table_of(rows) if steps is None else trips_of(rows, steps))
    out.print(summary(rows))
    return int(any(row.failed for row in rows))


_WIDE = 160
"""Columns of a file or a pipe: enough for any row."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="PATTERN", help="names of models, such as gpt2 or 'bert*'"
    )
    parser.add_argument("--hand", action="store_true", help="only models written by hand")
    parser.add_argument("--architectures", action="store_true", help="only published architectures")
    parser.add_argument(
        "--stages", type=int, default=3, help="stages to cut into, or as many as there can be"
    )
    parser.add_argument("--plan", default="", help="a plan instead, such as bottleneck")
    parser.add_argument("--round-trip", action="store_true", help="to files and back, and to onnxruntime")
    parser.add_argument("--training-export", action="store_true", help="to a device, and trained there")
    parser.add_argument(
        "--optimizer", choices=[*OPTIMIZERS], default="momentum", help="of --training-export (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there as well")
    parser.add_argument("--list", action="store_true", help="print the names and do nothing")
    return parser


def _chosen(options: argparse.Namespace) -> list[Subject]:
    families = [family for family in FAMILIES if getattr(options, family)] or FAMILIES
    return [
        subject
        for subject in subjects()
        if subject.family in families
        and (not options.names or any(fnmatch(subject.name, pattern) for pattern in options.names))
    ]


def _examined(chosen: Sequence[Subject], ask: Callable[[Subject], Any]) -> Iterator[Any]:
    """A row for each; a terminal sees which one is at work."""
    shown = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with shown, silence():
        task = shown.add_task("", total=len(chosen))
        for subject in chosen:
            shown.update(task, description=subject.name)
            yield ask(subject)
            shown.advance(task)


if __name__ == "__main__":
    sys.exit(main())
