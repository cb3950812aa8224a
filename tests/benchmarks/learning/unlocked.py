"""Nets of the DNI paper whose stages wait for fewer and fewer others.

    python -m tests.benchmarks.learning.unlocked [--data FILE.npz] [--hidden 4] [--epochs 10] [--batch 256]
        [--synthesizer auto] [--interface dni] [--rows NAMES] [--seeds 1] [--json FILE]

The nets are those of `mnist`, cut after every hidden layer, and the synthesizers see the labels. Rows are
backprop; stages that do not wait for gradients (`local`); stages that are updated in a fifth of the steps, of
which there are five times as many, so that each is updated as often (`asynchronous`); and stages that do not
wait for activations either (`forward`). Prints the error on the test set after each epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import dni_fx
from tests.benchmarks.learning.command import names_of
from tests.benchmarks.learning.data import Images, images
from tests.benchmarks.learning.nets import fcn
from tests.benchmarks.learning.runs import loss_of, say


@dataclass(frozen=True)
class Way:
    """A runtime, and how many steps it takes for one of the others."""

    runtime: str
    times: int = 1
    synthesizer: str = ""


WAYS = {
    "backprop": Way("backprop", synthesizer="oracle"),
    "local": Way("local"),
    "asynchronous": Way("local:update_probability=0.2", 5),
    "forward": Way("local:unlock=forward"),
}


def trainer_of(way: Way, data: Images, steps: int, seed: int, options: argparse.Namespace) -> dni_fx.Trainer:
    """A net of this seed, to be trained by Adam at a rate that falls to a hundredth in so many updates."""
    torch.manual_seed(seed)
    net = fcn(data, hidden=options.hidden)
    (x, _) = next(data.batches(options.batch, seed))
    cuts = "+".join(f"hidden{number}" for number in range(1, options.hidden + 1))
    synthesizer = way.synthesizer or options.synthesizer
    cut = dni_fx.decouple(
        net, (x,), plan=f"at:after={cuts}", synthesizer=synthesizer, interface=options.interface
    )

    def falling(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: max(1 - done / steps, 0.01))

    return dni_fx.Trainer(cut, loss=loss_of, runtime=way.runtime, scheduler=falling, labels_as_context=True)


def errors(
    trainer: dni_fx.Trainer, data: Images, steps: Sequence[int], seed: int, batch: int
) -> Iterator[float]:
    """The part of the test set that is told wrong after each of these numbers of steps more."""
    batches = data.batches(batch, seed)
    for count in steps:
        for each in islice(batches, count):
            trainer.step(each)
        trainer.cut.eval()
        with torch.no_grad():
            wrong = sum(int((trainer.cut(x).argmax(-1) != y).sum()) for x, y in data.held_out())
        trainer.cut.train()
        yield wrong / len(data.test_y)


def measured(name: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """One run: the errors after each epoch, or the five that stand for one."""
    data, way = images(options.data), WAYS[name]
    epoch = options.steps or data.epoch(options.batch)
    trainer = trainer_of(way, data, epoch * options.epochs, seed, options)
    found = errors(trainer, data, [epoch * way.times] * options.epochs, seed, options.batch)
    made: list[float] = []
    for error in found:
        made.append(error)
        say(f"{name}, seed {seed}, epoch {len(made)}: {100 * error:.2f} %")
    return {"row": name, "seed": seed, "steps": trainer.steps, "errors": made}


def table(found: Sequence[dict]) -> Table:
    """A row for each way: steps, and the error in % after half of the epochs and after all, by seed."""
    made = Table("", "steps", "error, % halfway", "error, %", "of each seed")
    for name in dict.fromkeys(each["row"] for each in found):
        runs = [each for each in found if each["row"] == name]
        half, end = (
            [100 * run["errors"][at] for run in runs]
            for at in (math.ceil(len(runs[0]["errors"]) / 2) - 1, -1)
        )
        cells = [f"{statistics.fmean(each):.2f}" for each in (half, end)]
        made.add_row(name, f"{runs[0]['steps']:,}", *cells, " ".join(f"{each:.2f}" for each in end))
    return made


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FILE")
    parser.add_argument("--hidden", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=0, help="of an epoch, in the place of all batches")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--synthesizer", default="auto")
    parser.add_argument("--interface", default="dni")
    parser.add_argument("--rows", nargs="+", default=[",".join(WAYS)], metavar="NAMES")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = names_of(options.rows)
    found = [measured(name, seed, options) for name in rows for seed in range(options.seeds)]
    Console(width=120).print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
