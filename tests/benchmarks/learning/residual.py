"""A residual net of 20 layers, cut into balanced stages.

    python -m tests.benchmarks.learning.residual [--data FILE.npz] [--width 16] [--stages 2 4 8] [--epochs 10]
        [--bf16] [--channels-last] [--rows NAMES] [--seeds 3] [--jobs N] [--json FILE]

The file holds `x_train`, `y_train`, `x_test` and `y_test`; without it scikit-learn's digits are learned.
Backprop is run once for all numbers of stages.
"""

from __future__ import annotations

from functools import partial

from tests.benchmarks.learning.command import add_training, options_of, runs_of, show, steps_of
from tests.benchmarks.learning.data import images
from tests.benchmarks.learning.jobs import Task
from tests.benchmarks.learning.nets import resnet
from tests.benchmarks.learning.rows import Regression


def main() -> None:
    """Train and print."""
    parser = options_of(__doc__, regression=Regression("conv", "conv", "dni:lr=0.01,warmup=100"))
    add_training(parser, batch=128)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--channels-last", action="store_true", help="channels last in memory")
    options = parser.parse_args()
    data = partial(images, options.data)
    tasks = [
        Task(
            f"{stages} stages",
            data,
            partial(resnet, width=options.width),
            f"balanced:stages={stages}",
            options.batch,
            steps_of(options, data()),
            options.points,
            lr=options.lr,
            decay=options.decay,
            bf16=options.bf16,
            channels_last=options.channels_last,
        )
        for stages in options.stages
    ]
    show(runs_of(tasks, options))


if __name__ == "__main__":
    main()
