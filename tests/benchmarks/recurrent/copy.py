"""How long a sequence a net learns to copy, when it learns from a few steps at a time.

    python -m tests.benchmarks.recurrent.copy [--task copy|repeat-copy] [--rows bptt dni dni-aux full]
        [--chunks 2 3 4 5] [--updates 20000] [--hidden 128] [--batch 64] [--lr 1e-3] [--seeds 1]
        [--synthesizer linear:norm=none] [--scale 1.0] [--aux 0.1]
        [--interface dni:guard=0,trust=100] [--json FILE] [--plot FILE]

An episode shows N bits, one a step, then a sign to go, and asks for the bits: once (copy), or R times
(repeat-copy, where the sign tells R). Samples are in different phases; episodes take a whole number of
chunks. N begins at 1. When the loss of the present length falls below 0.15 bits for each bit asked for, N
rises by one; for repeat-copy N and R rise in turn. All rows have as many updates, one a chunk, and the same
episodes for as long as they are at the same length.

`bptt` stops the gradient at the chunk, `dni` guesses what comes from beyond, `dni-aux` has the auxiliary task
as well, and `full` goes back through whole episodes, one an update.

Told is the longest sequence that was modelled: for copy N, for repeat-copy N + 1 + N R, all steps of an
episode.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dni_fx.plot import check_plot
from tests.benchmarks.learning.records import said
from tests.benchmarks.learning.report import spread
from tests.benchmarks.recurrent.nets import Recurrent
from tests.benchmarks.recurrent.pictures import draw_lengths
from tests.benchmarks.recurrent.rows import BASE, NAMES, Loop, Row, add_rows, quietly, row_of
from tests.benchmarks.recurrent.stream import Chunk, Curriculum, Stream
from tests.benchmarks.recurrent.tasks import CHANNELS, TASKS
from tests.benchmarks.unlocked.pictures import write
from tests.benchmarks.unlocked.records import Book


@dataclass(frozen=True)
class Setting:
    """A task, the chunks it comes in, and the net that learns it. `time` is 0 for whole episodes."""

    task: str
    time: int
    updates: int
    hidden: int
    batch: int
    lr: float

    def __str__(self) -> str:
        sizes = f"LSTM {self.hidden}, batch {self.batch}, {self.updates:,} updates"
        return f"{self.task}, chunks of {self.time}, {sizes}"

    @property
    def key(self) -> str:
        """All that it says, as text."""
        return said(self)


@dataclass(frozen=True)
class Found:
    """The runs of one row, one for each seed. What was passed are updates and what was modelled by then."""

    row: str
    setting: Setting
    runs: tuple[dict[str, Any], ...]

    @property
    def longest(self) -> list[float]:
        """What each seed has modelled."""
        return [float(run["passed"][-1][1]) if run["passed"] else 0.0 for run in self.runs]


def losses(outputs: Tensor, chunk: Chunk) -> Tensor:
    """Nats of every step `(batch, time)`: 0 where no bit is asked for."""
    wanted = chunk.y.clamp(min=0).to(outputs.dtype)
    return F.binary_cross_entropy_with_logits(outputs.squeeze(-1), wanted, reduction="none") * chunk.scored


def trained(setting: Setting, row: Row, seed: int) -> dict[str, Any]:
    """One run: what was modelled after how many updates, and how well the state's gradient was guessed."""
    torch.manual_seed(seed)
    curriculum = Curriculum(TASKS[setting.task])
    stream = Stream(setting.batch, setting.time, seed, curriculum.level)
    net = Recurrent(nn.Identity(), CHANNELS, setting.hidden, 1)
    loop = Loop(row, net, torch.zeros(setting.batch, max(setting.time, 1), CHANNELS), setting.lr)
    for update in range(1, setting.updates + 1):
        chunk = stream.chunk(curriculum.level)
        outputs = loop.update(
            chunk.x, chunk.ends, lambda given, of=chunk: losses(given, of).sum() / of.y.numel()
        )
        judged = chunk.scored & chunk.present.unsqueeze(1)
        bits = float((losses(outputs, chunk) * judged).sum()) / math.log(2)
        curriculum.note(update, bits, int(judged.sum()))
    passed = [(update, curriculum.task.counted(level), asdict(level)) for update, level in curriculum.passed]
    return {"passed": passed, "loss": curriculum.loss, **loop.figures()}


def table(found: Sequence[Found]) -> Table:
    """A row for each way to train; means and standard deviations over the seeds."""
    setting = found[0].setting
    unit = TASKS[setting.task].unit
    columns = ("longest", "by BPTT's", "of each seed", "cosine", "error", "locked", "ms an update")
    made = Table("", *columns, title=f"{setting}: longest in {unit}")
    base = next((statistics.fmean(each.longest) for each in found if each.row == BASE), 0.0)
    for each in found:
        mean = statistics.fmean(each.longest)
        seeds = " ".join(f"{length:.0f}" for length in each.longest)
        guesses = [_figure(each.runs, of) for of in ("cosine", "error", "locked")]
        pace = spread((1e3 * run["seconds"] for run in each.runs), 2)
        ratio = f"{mean / base:.2f}" if base else "-"
        made.add_row(each.row, spread(each.longest, 1), ratio, seeds, *guesses, pace)
    return made


def _figure(runs: Sequence[dict[str, Any]], of: str) -> str:
    return spread((run[of] for run in runs if of in run), 2)


def found_by(options: argparse.Namespace) -> Iterator[list[Found]]:
    """The runs of every chunk length, from the file or run now."""
    book = Book(options.json)
    for time in options.chunks:
        made: list[Found] = []
        for name in options.rows:
            row, whole = row_of(name, options), name == "full"
            sizes = (options.updates, options.hidden, options.batch, options.lr)
            setting = Setting(options.task, 0 if whole else time, *sizes)
            runs = [
                book.figures(
                    f"{setting.key} {row.key} seed={seed}",
                    lambda seed=seed: quietly(lambda: trained(setting, row, seed)),  # noqa: B023
                )
                for seed in range(options.seeds)
            ]
            made.append(Found(name, Setting(options.task, time, *sizes), tuple(runs)))
        yield made


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", choices=list(TASKS), default="copy")
    add("--rows", nargs="+", choices=NAMES, default=list(NAMES))
    add("--chunks", type=int, nargs="+", default=[2, 3, 4, 5], help="steps between two updates")
    add("--updates", type=int, default=20_000)
    add("--hidden", type=int, default=128)
    add("--batch", type=int, default=64)
    add("--lr", type=float, default=1e-3)
    add("--seeds", type=int, default=1)
    add_rows(parser, scale=1.0)
    add("--json", type=Path, metavar="FILE", help="keeps the runs; those in it are not run again")
    add("--plot", type=Path, metavar="FILE", help="a .png or .svg file: length by updates")
    options = parser.parse_args()
    if options.plot:
        check_plot(options.plot)
    torch.set_num_threads(1)
    console, panels = Console(width=140), []
    for found in found_by(options):
        console.print(table(found))
        panels.append((draw_lengths, found[0].setting, found))
    if options.plot:
        write(panels, options.plot)


if __name__ == "__main__":
    main()
