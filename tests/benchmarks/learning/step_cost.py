"""What a step of a cut net costs beside backprop, and what its forward pass costs in eval mode.

    python -m tests.benchmarks.learning.step_cost [--hidden 6 21] [--batch 256] [--rows linear,zero]
        [--interface dni:every=4] [--labels] [--rounds 100] [--data FILE.npz] [--json FILE]

The nets are those of `mnist`, cut after every hidden layer; the rows are synthesizers, which see the labels
with `--labels`. In every round each takes one step, in turns that begin with another one each time: forward,
loss, backward and Adam, on one thread. Times of steps are of the processor. In eval mode the cut net takes
turns with the original, on the same weights; these times are of the clock.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import dni_fx
from tests.benchmarks.learning.command import names_of
from tests.benchmarks.learning.data import images
from tests.benchmarks.learning.jobs import Job
from tests.benchmarks.learning.mnist import task_of
from tests.benchmarks.learning.rows import BACKPROP, Row
from tests.benchmarks.learning.runs import Loop, say

WARM = 5
"""Rounds that do not count."""

Times = dict[str, list[float]]


def in_turns(
    kinds: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> Times:
    """Seconds of each kind in each round."""
    names = list(kinds)
    found: Times = {name: [] for name in names}
    gc.collect()
    gc.disable()
    for number in range(WARM + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = clock()
            kinds[name]()
            spent = clock() - start
            if number >= WARM:
                found[name].append(spent)
    gc.enable()
    return found


def steps(loops: Mapping[str, Loop], rounds: int) -> Times:
    """Seconds of a step of each net, on one batch."""
    kinds: dict[str, Callable[[], object]] = {}
    for name, loop in loops.items():
        kinds[name] = partial(loop.step, *loop.placed(next(loop.batches)))
    return in_turns(kinds, rounds)


@torch.no_grad()
def forwards(loop: Loop, rounds: int) -> Times:
    """Seconds of a forward pass in eval mode of a cut net and of its original."""
    x, _ = loop.placed(next(loop.batches))
    cut, original = loop.net.eval(), dni_fx.recouple(loop.net).eval()
    return in_turns({"original": lambda: original(x), "cut": lambda: cut(x)}, rounds, time.perf_counter)


def measured(hidden: int, options: argparse.Namespace, rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    """The times of backprop and of every row on one net."""
    task = task_of(hidden, partial(images, options.data), options.batch, options.rounds)
    loops = {row.name: Loop(Job(task, row, 0)) for row in (BACKPROP, *rows)}
    spent = steps(loops, options.rounds)
    for row in (BACKPROP, *rows):
        cut = forwards(loops[row.name], 5 * options.rounds) if row.synthesizer else {}
        yield {"hidden": hidden, "row": row.name, "steps": spent[row.name], "eval": cut}
        say(f"{hidden} hidden layers, {row.name}")


def table(found: Sequence[dict]) -> Table:
    """A row for each net and way to train; ratios are to backprop, and in eval mode to the original."""
    made = Table("hidden", "", "step, ms", "ratio", "least", "ratio", "eval, us: original", "cut", "ratio")
    for each in found:
        base = next(e["steps"] for e in found if (e["hidden"], e["row"]) == (each["hidden"], BACKPROP.name))
        cells = []
        for of in (statistics.median, min):
            cells += [f"{1e3 * of(each['steps']):.2f}", f"{of(each['steps']) / of(base):.2f}"]
        if each["eval"]:
            least = [min(each["eval"][kind]) for kind in ("original", "cut")]
            cells += [*(f"{1e6 * seconds:.1f}" for seconds in least), f"{least[1] / least[0]:.3f}"]
        made.add_row(str(each["hidden"]), each["row"], *cells)
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FILE")
    parser.add_argument("--hidden", type=int, nargs="+", default=[6, 21])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", nargs="+", default=["linear,zero"], metavar="NAMES")
    parser.add_argument("--interface", default="dni", help="of all rows")
    parser.add_argument("--labels", action="store_true", help="the synthesizers see the labels")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [Row(name, name, options.labels, options.interface) for name in names_of(options.rows)]
    found = [each for hidden in options.hidden for each in measured(hidden, options, rows)]
    Console(width=160).print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
