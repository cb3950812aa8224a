"""Where cut nets learn at all: batches of 1 to 1,024, two precisions, two optimizers, three kinds of nets.

    python -m tests.benchmarks.learning.stability [--data FILE.npz] [--text FILE.txt] [--nets mlp resnet gpt]
        [--batches 1 16 1024] [--steps 500] [--rows NAMES] [--seeds 3] [--jobs N] [--json FILE]

The nets are small, in four stages, and have layer or group norms, which run at batch 1. A run is stable if
all losses, weights and guesses were finite, the loss fell, the cosine of synthetic and true gradient is
above 0 at every boundary (means over 50 steps at the end), no boundary was locked, and the last loss is
below that of `zero` from the same seed. Losses are on data that the net does not learn.
"""

from __future__ import annotations

import itertools
import statistics
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from tests.benchmarks.learning.command import options_of, runs_of
from tests.benchmarks.learning.data import images, text
from tests.benchmarks.learning.jobs import Task
from tests.benchmarks.learning.nets import fcn, gpt, resnet
from tests.benchmarks.learning.records import Run
from tests.benchmarks.learning.report import spread
from tests.benchmarks.learning.rows import Regression

ROWS = "backprop", "zero", "DNI", "cDNI", "critic", "local-head", "delayed", "default"
NETS = {
    "mlp": partial(fcn, hidden=4, width=64, norm=nn.LayerNorm),
    "resnet": partial(resnet, width=8, blocks=1, groups=4, stride=4),
    "gpt": partial(gpt, blocks=4, width=32),
}
OPTIMIZERS = {"Adam": 1e-3, "SGD": 0.1}
TIME = 8
DIAGNOSED = 50


def tasks_of(options: Namespace) -> Iterator[Task]:
    """Every net, batch, precision and optimizer."""
    pictures, letters = partial(images, options.data), partial(text, options.text, time=TIME)
    every = itertools.product(options.nets, options.batches, (False, True), OPTIMIZERS.items())
    for name, batch, bf16, (optimizer, lr) in every:
        yield Task(
            f"{name}, batch {batch:,}, {'bfloat16' if bf16 else 'float32'}, {optimizer}",
            letters if name == "gpt" else pictures,
            NETS[name],
            "balanced:stages=4",
            batch,
            options.steps,
            points=2,
            optimizer=optimizer,
            lr=lr,
            bf16=bf16,
            diagnosed=DIAGNOSED,
        )


def problems(run: Run, zero: Run | None) -> list[str]:
    """What keeps a run from being stable."""
    if run.failed:
        return ["failed"]
    found = [] if run.finite and not any("not finite" in each for each in run.warnings) else ["not finite"]
    first, last = run.points[0].validation, run.points[-1].validation
    found += [] if last < first else ["loss rose"]
    if run.row == "backprop":
        return found
    cosines = [guesses.cosine for guesses in run.boundaries.values()]
    found += [] if cosines and min(cosines) > 0 else ["cosine"]
    found += ["locked"] if any(guesses.locked for guesses in run.boundaries.values()) else []
    if zero is None or zero.failed:
        return [*found, "no zero"]
    return found if last < zero.points[-1].validation else [*found, "not below zero"]


def table(runs: Sequence[Run]) -> Table:
    """A row for each setting and way to train but zero; what is wrong is told if it is so of any seed."""
    columns = "stable", "what is wrong", "first loss", "last loss", "zero's", "least cosine"
    made = Table("", "row", *columns)
    zeros = {(run.setting, run.seed): run for run in runs if run.row == "zero"}
    for setting in dict.fromkeys(run.setting for run in runs):
        of_setting = [run for run in runs if run.setting == setting and run.row != "zero"]
        for row in dict.fromkeys(run.row for run in of_setting):
            made.add_row(setting, row, *cells([run for run in of_setting if run.row == row], zeros))
        made.add_section()
    return made


def cells(runs: Sequence[Run], zeros: dict[tuple[str, int], Run]) -> Iterator[str]:
    """The figures of one row as text, over its seeds."""
    wrong = [problems(run, zeros.get((run.setting, run.seed))) for run in runs]
    yield f"{sum(not each for each in wrong)} of {len(wrong)}"
    yield ", ".join(dict.fromkeys(itertools.chain.from_iterable(wrong)))
    good = [run for run in runs if not run.failed]
    yield spread((run.points[0].validation for run in good), 3)
    yield spread((run.points[-1].validation for run in good), 3)
    beside = [zeros[run.setting, run.seed] for run in good if (run.setting, run.seed) in zeros]
    yield spread((zero.points[-1].validation for zero in beside if not zero.failed), 3)
    least = [min(g.cosine for g in run.boundaries.values()) for run in good if run.boundaries]
    yield f"{min(least):.2f}" if least else "-"


def summary(runs: Sequence[Run]) -> Table:
    """How many runs of each way to train are stable, and the median of their losses."""
    made = Table("row", "stable", "median of last loss", "failures")
    zeros = {(run.setting, run.seed): run for run in runs if run.row == "zero"}
    for row in dict.fromkeys(run.row for run in runs if run.row != "zero"):
        of_row = [run for run in runs if run.row == row]
        stable = sum(not problems(run, zeros.get((run.setting, run.seed))) for run in of_row)
        losses = [run.points[-1].validation for run in of_row if run.points]
        median = f"{statistics.median(losses):.3f}" if losses else "-"
        why = "; ".join(dict.fromkeys(run.failed for run in of_row if run.failed))
        made.add_row(row, f"{stable} of {len(of_row)}", median, why)
    return made


def main() -> None:
    """Train and print."""
    parser = options_of(__doc__, regression=Regression("mlp", "mlp"), rows=ROWS)
    parser.add_argument("--text", type=Path, metavar="FILE", help="what the language model learns")
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 1024])
    parser.set_defaults(steps=500)
    options = parser.parse_args()
    runs = runs_of(list(tasks_of(options)), options, equal_time=False)
    console = Console(width=180)
    console.print(table(runs))
    console.print(summary(runs))


if __name__ == "__main__":
    main()
