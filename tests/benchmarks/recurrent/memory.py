"""How much memory it takes to learn from a sequence as it comes in, by its length.

    python -m tests.benchmarks.recurrent.memory [--rows full bptt dni dni-aux local]
        [--lengths 100 1000 10000] [--chunk 5] [--hidden 64] [--batch 16] [--lr 1e-3] [--limit 4]
        [--synthesizer linear:norm=none] [--scale 1.0] [--aux 0.1]
        [--interface dni:guard=0,trust=100] [--json FILE] [--plot FILE]

An LSTM reads random symbols, a chunk at a time, and has one update a chunk; `full` has the whole sequence at
once and one update for it. `bptt` stops the gradient at the chunk, `dni` guesses what comes from beyond in a
plain loop, `dni-aux` has the auxiliary task as well, and `local` is `dni` by `Trainer.fit` with the runtime
of that name.

Told are the most bytes that tensors held at once beside those that were there before the first chunk
(weights, state, and what optimizers keep), the same by those at the shortest length, and by how much the
process grew, resident: each in a process of its own. What needs over `--limit` GiB does not fit.
"""

from __future__ import annotations

import argparse
import gc
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import dni_fx
from dni_fx.plot import check_plot
from tests.benchmarks.learning.records import said
from tests.benchmarks.recurrent.nets import Recurrent
from tests.benchmarks.recurrent.pictures import draw_memory
from tests.benchmarks.recurrent.rows import NAMES, Loop, Row, add_rows, row_of
from tests.benchmarks.recurrent.tasks import CHANNELS
from tests.benchmarks.unlocked.meters import by_process, isolated
from tests.benchmarks.unlocked.pictures import write
from tests.benchmarks.unlocked.records import Book
from tests.benchmarks.unlocked.rows import MIB, number, ratio
from tests.live_bytes import LiveBytes

WARMING = 3
"""Chunks that are learned before anything is measured: optimizers make their state with the first one."""
ROWS = ("full", *(name for name in NAMES if name != "full"), "local")

Chunk = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Setting:
    """A net, the batch that it reads, how many steps of it are learned from at once, and GiB there are."""

    chunk: int
    hidden: int
    batch: int
    lr: float
    limit: float

    def __str__(self) -> str:
        return f"LSTM {self.hidden}, batch {self.batch}, chunks of {self.chunk}"

    def chunks(self, length: int, whole: bool) -> Iterator[Chunk]:
        """Inputs and targets, made when they are asked for; all in one if the sequence comes whole."""
        draw = torch.Generator().manual_seed(0)
        for time in [length] if whole else [self.chunk] * (length // self.chunk):
            symbols = torch.randint(CHANNELS, (self.batch, time), generator=draw)
            yield F.one_hot(symbols, CHANNELS).float(), (symbols == 0).float()


@dataclass(frozen=True)
class Found:
    """The bytes of one row at each length, None where it did not fit."""

    row: str
    lengths: tuple[int, ...]
    live: tuple[int | None, ...]
    process: tuple[int | None, ...]


class Stream:
    """Chunks that `fit` goes through: each is made when its turn comes."""

    def __init__(self, setting: Setting, length: int) -> None:
        self.setting, self.length = setting, length

    def __iter__(self) -> Iterator[Chunk]:
        return self.setting.chunks(self.length, whole=False)


def learner(setting: Setting, row: Row) -> Callable[[int], None]:
    """What learns a sequence of so many steps from end to end."""
    torch.manual_seed(0)
    net = Recurrent(nn.Identity(), CHANNELS, setting.hidden, 1)
    (x, _) = next(setting.chunks(setting.chunk, whole=True))
    if row.name == "local":
        how = {"optimizer": partial(torch.optim.Adam, lr=setting.lr), "runtime": "local"}
        trainer = dni_fx.Trainer(row.cut(net, x), loss=lambda made, y: _loss(made[0], y), **how)

        def fit(length: int) -> None:
            trainer.fit(Stream(setting, length), epochs=len(trainer.epochs) + 1, progress=False)

        return fit
    loop, never = Loop(row, net, x, setting.lr), torch.zeros(setting.batch, dtype=torch.bool)

    def update(length: int) -> None:
        for x, y in setting.chunks(length, whole=row.name == "full"):
            loop.update(x, never, lambda outputs, y=y: _loss(outputs, y))

    return update


def measured(setting: Setting, row: Row, length: int) -> dict[str, int]:
    """The most live bytes while a sequence is learned, and by how much the process grows meanwhile."""
    learn = learner(setting, row)
    learn(WARMING * setting.chunk)
    _limit(setting.limit)
    process = by_process(lambda: learn(length))  # first, since the other meter has a memory of its own
    there = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
    with LiveBytes(*there) as seen:
        start = seen.now
        learn(length)
    return {"live": seen.peak - start, "process": process}


def table(setting: Setting, found: Sequence[Found]) -> Table:
    """A row for each way to train, and bytes for each length."""
    lengths = found[0].lengths
    kinds = ("live MiB", f"by that at {lengths[0]:,}", "process MiB")
    made = Table("", title=f"{setting}: memory by steps", title_justify="left")
    for kind in kinds:
        for length in lengths:
            made.add_column(f"{kind}, {length:,}", justify="right")
    for each in found:
        live = [float("nan") if size is None else size for size in each.live]
        process = [float("nan") if size is None else size for size in each.process]
        cells = [number(size / MIB, 3) for size in live]
        cells += [ratio(size, live[0]) for size in live]
        made.add_row(each.row, *cells, *(number(size / MIB, 1) for size in process))
    return made


def found_by(options: argparse.Namespace) -> tuple[Setting, list[Found]]:
    """What each row takes at each length, from the file or measured now."""
    setting = Setting(options.chunk, options.hidden, options.batch, options.lr, options.limit)
    book, found = Book(options.json), []
    for name in options.rows:
        row = replace(row_of(name, options), name=name)
        sizes: list[dict[str, Any]] = [
            book.figures(
                f"{said(setting)} {name} {row.key} length={length}",
                lambda row=row, length=length: isolated(measured, setting, row, length),
            )
            or {}
            for length in options.lengths
        ]
        kinds = [tuple(each.get(kind) for each in sizes) for kind in ("live", "process")]
        found.append(Found(name, tuple(options.lengths), *kinds))
    return setting, found


def _loss(outputs: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs.squeeze(-1), y)


def _limit(gibibytes: float) -> None:
    """Let this process take so much more memory, where that can be said; beyond it torch raises."""
    path = Path("/proc/self/statm")
    if path.exists():
        now = int(path.read_text().split()[0]) * resource.getpagesize()
        most = now + int(gibibytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    add("--lengths", type=int, nargs="+", default=[100, 1_000, 10_000], help="steps of the sequence")
    add("--chunk", type=int, default=5, help="steps between two updates")
    add("--hidden", type=int, default=64)
    add("--batch", type=int, default=16)
    add("--lr", type=float, default=1e-3)
    add("--limit", type=float, default=4.0, metavar="GIB", help="what takes more does not fit")
    add_rows(parser, scale=1.0)
    add("--json", type=Path, metavar="FILE", help="keeps what was measured; that is not measured again")
    add("--plot", type=Path, metavar="FILE", help="a .png or .svg file: live bytes by length")
    options = parser.parse_args()
    if odd := [length for length in options.lengths if length < 1 or length % options.chunk]:
        parser.error(f"{odd[0]} steps are not a whole number of chunks of {options.chunk}.")
    if options.plot:
        check_plot(options.plot)
    torch.set_num_threads(1)
    setting, found = found_by(options)
    Console(width=160).print(table(setting, found))
    if options.plot:
        write([(draw_memory, setting, found)], options.plot)


if __name__ == "__main__":
    main()
