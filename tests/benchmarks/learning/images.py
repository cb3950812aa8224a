"""The convolutional net of the DNI paper, cut after every block.

    python -m tests.benchmarks.learning.images [--data FILE.npz] [--channels 128] [--epochs 10] [--bf16]
        [--channels-last] [--rows NAMES] [--seeds 3] [--jobs N] [--json FILE]

Three blocks of a 5 by 5 convolution, batch norm, ReLU and a pool, and a linear layer, for images of any size
and number of channels. The file holds `x_train`, `y_train`, `x_test` and `y_test`; without it scikit-learn's
digits are learned.
"""

from __future__ import annotations

from functools import partial

from tests.benchmarks.learning.command import add_training, options_of, runs_of, show, steps_of
from tests.benchmarks.learning.data import images
from tests.benchmarks.learning.jobs import Task
from tests.benchmarks.learning.nets import cnn
from tests.benchmarks.learning.rows import Regression


def main() -> None:
    """Train and print."""
    parser = options_of(__doc__, regression=Regression("conv", "conv", "dni:lr=0.01,warmup=100"))
    add_training(parser)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--channels-last", action="store_true", help="channels last in memory")
    options = parser.parse_args()
    data = partial(images, options.data)
    task = Task(
        f"3 blocks of {options.channels} channels",
        data,
        partial(cnn, channels=options.channels),
        "at:after=block1+block2+block3",
        options.batch,
        steps_of(options, data()),
        options.points,
        lr=options.lr,
        decay=options.decay,
        bf16=options.bf16,
        channels_last=options.channels_last,
    )
    show(runs_of([task], options))


if __name__ == "__main__":
    main()
