"""How much memory ways to train a net take, how it grows with depth, and how long a sample fits below a cap.

    python -m tests.benchmarks.memory [--nets mlp resnet gpt gpt-16k] [--rows NAMES] [--stages 1 2 4 8]
        [--synthesizer local-head] [--batch N] [--time TOKENS] [--depths 4 8 16 --per-stage 2] [--cap BYTES]
        [--seconds 20] [--json FILE] [--plot FILE]

Rows are plain backprop; `accumulate`, the same over micro-batches; `budget`, compiled code that may keep a
part of its activations; `checkpoint`, which computes every stage but the last again; `drop-in`, the cut net
in the plain loop, whose stages are released early; `local`, whose stages step one after the other; and
`zero`, `drop-in` without any guess.

Live bytes are the most that tensors held at once in any of eight steps, to the byte, beyond weights, buffers,
the state of optimizers and the batch: what autograd keeps, what is computed again, gradients that flow and
those of weights. `without gradients` leaves out the gradients of the net's weights. What compiled code holds
is what the allocator gave it. `process` is by how much the resident process grew; the heap of glibc keeps
memory that tensors have freed, and with MALLOC_MMAP_THRESHOLD_=131072 it grows by little more than the live
bytes. `kept` is what stays between steps, synthesizers and their optimizers included; `cutting` by how
much the process grew while the net was made, captured and cut. On a GPU bytes are the allocator's.
Memory is measured in a process for each row; times are of steps that all rows take in turns, after which
losses on held-out data are compared at equal time. Ratios are to backprop.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tests.benchmarks.unlocked.growth import (
    Growth,
    Longest,
    growth,
    growth_table,
    longest,
    longest_table,
)
from tests.benchmarks.unlocked.options import options_of, parsed, settings_of, ways_of
from tests.benchmarks.unlocked.pictures import draw_growth, draw_longest, draw_rows, write
from tests.benchmarks.unlocked.records import Book
from tests.benchmarks.unlocked.rows import Row, remarks, rows, show, table
from tests.benchmarks.unlocked.settings import Setting


def main() -> None:
    """Measure, print and draw."""
    options = parsed(_parser())
    book, panels = Book(options.json), []
    time = options.seconds, options.clock
    for setting in settings_of(options):
        if not options.no_rows:
            found: Sequence[Row] = rows(book, setting, ways_of(options), *time)
            show(table(setting, found, *time), remarks=remarks(found))
            panels.append((draw_rows, setting, found))
        if options.depths:
            grown = _growth(book, setting, options, time)
            show(growth_table(setting, grown, options.per_stage, time))
            panels.append((draw_growth, setting, grown))
        if options.cap and setting.time:
            fits = _longest(book, setting, options, time)
            show(longest_table(setting, fits, options.cap, time))
            panels.append((draw_longest, setting, fits))
    if options.plot:
        write(panels, options.plot)


def _growth(
    book: Book, setting: Setting, options: argparse.Namespace, time: tuple[float, str]
) -> list[Growth]:
    return growth(book, setting, ways_of(options, [1]), options.depths, options.per_stage, time)


def _longest(
    book: Book, setting: Setting, options: argparse.Namespace, time: tuple[float, str]
) -> list[Longest]:
    way = ways_of(options, [max(options.stages)])
    return longest(book, setting, way, options.cap, options.shortest, options.most, time)


def _parser() -> argparse.ArgumentParser:
    parser = options_of(__doc__, nets=("mlp", "resnet", "gpt", "gpt-16k"), stages=(1, 2, 4, 8), seconds=20)
    add = parser.add_argument
    add("--no-rows", action="store_true", help="only how memory grows, or what fits")
    add("--depths", type=int, nargs="+", default=[], help="for the growth with depth; none if not given")
    add("--per-stage", type=int, default=2, help="layers in a stage there")
    add("--cap", type=int, default=0, help="bytes of tensors alive, for the longest sample; none if 0")
    add("--shortest", type=int, default=256, help="tokens to begin with")
    add("--most", type=int, default=16_384, help="tokens not to go beyond")
    return parser


if __name__ == "__main__":
    main()
