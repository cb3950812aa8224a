"""How well a net learns to tell the next character, when it learns from a few characters at a time.

    python -m tests.benchmarks.recurrent.chars [--data FILE.txt] [--rows bptt-8 dni-8 dni-aux-8 bptt-20 full]
        [--characters 2000000] [--hidden 256] [--batch 32] [--lr 1e-3] [--falling] [--seeds 1] [--points 10]
        [--synthesizer linear:norm=none] [--scale 1.0] [--aux 0.1]
        [--interface dni:guard=0,trust=100] [--json FILE] [--plot FILE]

The text stands in as many rows as a batch has samples, which are read from end to end; the state goes on
from chunk to chunk. Every row of the table sees the same characters, in chunks of as many as its name says,
and has one update a chunk; `full` has chunks of 128. Told are the bits for each character of a text that is
not learned, read from end to end as well, after all characters, and the least on the way.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

from dni_fx.plot import check_plot
from tests.benchmarks.learning.records import said
from tests.benchmarks.learning.report import spread
from tests.benchmarks.learning.runs import loss_of
from tests.benchmarks.recurrent.characters import Rows, rows_of
from tests.benchmarks.recurrent.nets import Recurrent
from tests.benchmarks.recurrent.pictures import draw_losses
from tests.benchmarks.recurrent.rows import NAMES, Loop, Row, add_rows, quietly, row_of
from tests.benchmarks.unlocked.pictures import write
from tests.benchmarks.unlocked.records import Book
from tests.benchmarks.unlocked.settings import CHARACTERS

WHOLE = 128
"""Characters of a chunk of `full`."""


@dataclass(frozen=True)
class Setting:
    """A net that reads text, and how much of it."""

    characters: int
    hidden: int
    batch: int
    lr: float
    points: int
    data: str = ""
    falls: bool = False

    def __str__(self) -> str:
        rate = f"lr {self.lr:g}{' falling to 0' if self.falls else ''}"
        return f"LSTM {self.hidden}, batch {self.batch}, {rate}, {self.characters:,} characters"

    @property
    def key(self) -> str:
        """All that it says, as text."""
        return said(self)


@dataclass(frozen=True)
class Found:
    """The runs of one row, one for each seed. What was judged are characters seen, and bits a character."""

    row: str
    runs: tuple[dict[str, Any], ...]

    @property
    def kind(self) -> str:
        """What the row does at the end of a chunk, whatever its length is."""
        return kind_of(self.row)[0]

    @property
    def shade(self) -> float:
        """The longer the chunk the fainter."""
        return max(8 / kind_of(self.row)[1], 0.3) ** 0.5


def kind_of(name: str) -> tuple[str, int]:
    """What a row does at the end of a chunk, and how long one is.

    >>> kind_of("dni-aux-8"), kind_of("full")
    (('dni-aux', 8), ('full', 128))
    """
    if name == "full":
        return name, WHOLE
    kind, _, time = name.rpartition("-")
    if kind not in NAMES or not time.isdigit() or not int(time):
        raise SystemExit(f"{name!r} is no row: write bptt-8, dni-8, dni-aux-8 or full, with any length.")
    return kind, int(time)


@torch.no_grad()
def judged(net: Recurrent, rows: Rows) -> float:
    """Bits for each character of these rows, read from end to end."""
    state, total, count = net.start(len(rows.x)), 0.0, 0
    for x, y in zip(rows.x.split(256, 1), rows.y.split(256, 1), strict=True):
        outputs, state = net(x, state)
        total += float(F.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="sum"))
        count += y.numel()
    return total / count / math.log(2)


def trained(setting: Setting, row: Row, time: int, seed: int) -> dict[str, Any]:
    """One run: bits a character after so many characters."""
    torch.manual_seed(seed)
    learned, held = rows_of(Path(setting.data) if setting.data else None, setting.batch)
    net = Recurrent(nn.Embedding(CHARACTERS, CHARACTERS), CHARACTERS, setting.hidden, CHARACTERS)
    updates = -(-setting.characters // (setting.batch * time))
    loop = Loop(row, net, learned.x[:, :time], setting.lr, updates if setting.falls else 0)
    chunks, seen, found = learned.chunks(time), 0, []
    for point in range(1, setting.points + 1):
        wanted = setting.characters * point // setting.points
        for x, y, ends in islice(chunks, -(-(wanted - seen) // (setting.batch * time))):
            loop.update(x, ends, lambda outputs, of=y: loss_of(outputs, of))
            seen += x.numel()
        found.append((seen, judged(net, held)))
    return {"judged": found, **loop.figures()}


def table(setting: Setting, found: Sequence[Found]) -> Table:
    """A row for each way to train; means and standard deviations over the seeds."""
    columns = ("bits a character", "least", "of each seed", "updates", "cosine", "error", "ms an update")
    made = Table("", *columns, title=str(setting))
    for each in found:
        last = [run["judged"][-1][1] for run in each.runs]
        least = spread((min(bits for _, bits in run["judged"]) for run in each.runs), 4)
        seeds = " ".join(f"{bits:.4f}" for bits in last)
        guesses = [spread((run[of] for run in each.runs if of in run), 2) for of in ("cosine", "error")]
        updates = f"{statistics.fmean(run['updates'] for run in each.runs):,.0f}"
        pace = spread((1e3 * run["seconds"] for run in each.runs), 2)
        made.add_row(each.row, spread(last, 4), least, seeds, updates, *guesses, pace)
    return made


def found_by(setting: Setting, options: argparse.Namespace) -> Iterator[Found]:
    """The runs of every row, from the file or run now."""
    book = Book(options.json)
    for name in options.rows:
        kind, time = kind_of(name)
        row = row_of(kind, options)
        runs = [
            book.figures(
                f"{setting.key} time={time} {row.key} seed={seed}",
                lambda seed=seed: quietly(lambda: trained(setting, row, time, seed)),  # noqa: B023
            )
            for seed in range(options.seeds)
        ]
        yield Found(name, tuple(runs))


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="FILE.txt", help="text; the modules of Python's library if not given")
    add("--rows", nargs="+", default=["bptt-8", "dni-8", "dni-aux-8", "bptt-20", "full"], metavar="NAMES")
    add("--characters", type=int, default=2_000_000)
    add("--hidden", type=int, default=256)
    add("--batch", type=int, default=32)
    add("--lr", type=float, default=1e-3)
    add("--falling", action="store_true", help="the rate falls in a straight line to 0")
    add("--points", type=int, default=10, help="how often a run is judged")
    add("--seeds", type=int, default=1)
    add_rows(parser, scale=1.0)
    add("--json", type=Path, metavar="FILE", help="keeps the runs; those in it are not run again")
    add("--plot", type=Path, metavar="FILE", help="a .png or .svg file: bits by characters seen")
    options = parser.parse_args()
    if options.plot:
        check_plot(options.plot)
    torch.set_num_threads(1)
    sizes = (options.characters, options.hidden, options.batch, options.lr, options.points)
    setting = Setting(*sizes, str(options.data or ""), options.falling)
    found = list(found_by(setting, options))
    Console(width=140).print(table(setting, found))
    if options.plot:
        write([(draw_losses, setting, found)], options.plot)


if __name__ == "__main__":
    main()
