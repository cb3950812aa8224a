"""How fast ways to train a net are, and what loss they reach in the same time.

    python -m tests.benchmarks.throughput [--nets mlp resnet gpt] [--rows NAMES] [--stages 2 4 8]
        [--synthesizer local-head] [--data FILE.txt] [--images FILE.npz] [--seconds 60] [--clock wall]
        [--points 6] [--json FILE] [--plot FILE]

The rows, and what their memory is, are those of `python -m tests.benchmarks.memory`. All nets of a table take
steps in turns, each round beginning with another one, on batches of the same order, until each has used up
its seconds; making batches and judging take no time. The loss is on data that the nets do not learn, and
is judged at `points` places. Times are medians and minima over all steps, of the processor and of the
clock, in one thread on a CPU; ratios are to backprop.
"""

from __future__ import annotations

from tests.benchmarks.unlocked.options import options_of, parsed, settings_of, ways_of
from tests.benchmarks.unlocked.pictures import draw_curves, draw_rows, write
from tests.benchmarks.unlocked.records import Book
from tests.benchmarks.unlocked.rows import remarks, rows, show, table


def main() -> None:
    """Train, print and draw."""
    parser = options_of(__doc__, nets=("mlp", "resnet", "gpt"), stages=(2, 4, 8), seconds=60)
    parser.add_argument("--points", type=int, default=6, help="how often a net is judged")
    options = parsed(parser)
    book, panels = Book(options.json), []
    for setting in settings_of(options):
        found = rows(book, setting, ways_of(options), options.seconds, options.clock, options.points)
        show(table(setting, found, options.seconds, options.clock), remarks=remarks(found))
        panels += [(draw_curves, setting, found), (draw_rows, setting, found)]
    if options.plot:
        write(panels, options.plot)


if __name__ == "__main__":
    main()
