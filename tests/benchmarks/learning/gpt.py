"""A language model of characters, cut into balanced stages.

    python -m tests.benchmarks.learning.gpt [--data FILE.txt] [--stages 2 4 8] [--blocks 8] [--width 96]
        [--time 64] [--batch 16] [--steps 3000] [--rows NAMES] [--seeds 3] [--jobs N] [--json FILE]

Losses are nats a character on windows of the last tenth of the text. The optimizer is AdamW, whose rate
rises for the first 100 steps, and gradients are clipped at norm 1. Without a file, sums are learned.
Backprop is run once for all numbers of stages.
"""

from __future__ import annotations

from functools import partial

from tests.benchmarks.learning.command import add_training, options_of, runs_of, show
from tests.benchmarks.learning.data import text
from tests.benchmarks.learning.jobs import Task
from tests.benchmarks.learning.nets import gpt
from tests.benchmarks.learning.rows import Regression

ROWS = "backprop", "zero", "local-head", "critic", "DNI", "cDNI", "default"


def main() -> None:
    """Train and print."""
    parser = options_of(__doc__, regression=Regression("mlp", "mlp"), rows=ROWS)
    add_training(parser, batch=16)
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--time", type=int, default=64, help="characters in a sample")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.set_defaults(steps=3000, decay=False)
    options = parser.parse_args()
    tasks = [
        Task(
            f"{stages} stages",
            partial(text, options.data, time=options.time),
            partial(gpt, blocks=options.blocks, width=options.width),
            f"balanced:stages={stages}",
            options.batch,
            options.steps,
            options.points,
            optimizer="AdamW",
            lr=options.lr,
            decay=options.decay,
            warmup=100,
            clip=1.0,
            bf16=options.bf16,
        )
        for stages in options.stages
    ]
    show(runs_of(tasks, options))


if __name__ == "__main__":
    main()
