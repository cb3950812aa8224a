"""What is lost when one synthesizer goes bad halfway through training.

    python -m tests.benchmarks.learning.poison [--data FILE.npz] [--hidden 3] [--epochs 10] [--rows NAMES]
        [--seeds 3] [--jobs N] [--json FILE]

The net is that of `mnist`, cut after every hidden layer. After half of the steps the weights of the
synthesizer in the middle become nan (`nan`), or are multiplied by -10, after which it learns no more
(`negated`), or by 10,000 (`huge`). Prints the final accuracy in percent, and in brackets how many points
that is below the run that was left alone (`none`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import dni_fx
from tests.benchmarks.learning.command import add_training, options_of, runs_of, steps_of
from tests.benchmarks.learning.data import images
from tests.benchmarks.learning.mnist import task_of
from tests.benchmarks.learning.records import Run
from tests.benchmarks.learning.report import remarks, spread
from tests.benchmarks.learning.rows import Regression

ROWS = "DNI", "cDNI", "critic", "local-head", "delayed", "default"
FACTORS = {"none": 1.0, "nan": float("nan"), "negated": -10.0, "huge": 1e4}


@torch.no_grad()
def poison(net: nn.Module, kind: str) -> None:
    """Spoil the synthesizer in the middle of a cut net: all that it has learned, or remembers."""
    if not isinstance(net, dni_fx.Decoupled):
        return
    several = list(dni_fx.boundaries(net).values())
    dni = several[len(several) // 2]
    for tensor in dni.learner.state_dict().values():
        if tensor.is_floating_point():
            tensor.mul_(FACTORS[kind])
    if kind == "negated":
        dni.interface = replace(dni.interface, lr=0.0)


def table(runs: Sequence[Run]) -> Table:
    """A row for each way to train, a column for each poison."""
    made = Table("", *FACTORS, title="accuracy, % (points lost), means over seeds")
    good = [run for run in runs if not run.failed]
    for row in dict.fromkeys(run.row for run in runs):
        found = {kind: accuracies(good, row, kind) for kind in FACTORS}
        made.add_row(row, *(cell(found[kind], {} if kind == "none" else found["none"]) for kind in FACTORS))
    return made


def accuracies(runs: Sequence[Run], row: str, kind: str) -> dict[int, float]:
    """The final accuracy in percent, by seed."""
    return {
        run.seed: 100 * (1 - run.points[-1].error) for run in runs if (run.row, run.setting) == (row, kind)
    }


def cell(found: dict[int, float], sound: dict[int, float]) -> str:
    """Accuracy and what was lost, as text."""
    lost = [sound[seed] - found[seed] for seed in found if seed in sound]
    return spread(found.values(), 2) + (f" ({statistics.fmean(lost):.2f})" if lost else "")


def main() -> None:
    """Train and print."""
    parser = options_of(__doc__, regression=Regression("mlp", "mlp"), rows=ROWS)
    add_training(parser)
    parser.add_argument("--hidden", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    data = partial(images, options.data)
    task = task_of(
        options.hidden,
        data,
        options.batch,
        steps_of(options, data()),
        points=options.points,
        lr=options.lr,
        decay=options.decay,
    )
    tasks = [replace(task, setting=kind, halfway=partial(poison, kind=kind)) for kind in FACTORS]
    runs = runs_of(tasks, options, equal_time=False)
    console = Console(width=160)
    console.print(table(runs))
    for remark in dict.fromkeys(remarks(runs)):
        console.print(remark, markup=False, highlight=False)


if __name__ == "__main__":
    main()
