"""A small fully connected net with one cut, the usual first test of synthetic gradients.

    python -m tests.benchmarks.learning.one_cut [--data FILE.npz] [--cut hidden1] [--norm] [--epochs 5]
        [--rows NAMES] [--seeds 3] [--jobs N] [--json FILE]

784-256-256-10 with ReLU, cut after the first hidden layer, or after the module that `--cut` names. With
`--norm --cut hidden2.1` it is the net of `mnist-mlp` in koz4k/dni-pytorch, which has batch norm after each
linear layer and its cut before the second ReLU; its inputs are also brought to mean 0 and variance 1.
"""

from __future__ import annotations

from functools import partial

from tests.benchmarks.learning.command import add_training, options_of, runs_of, show, steps_of
from tests.benchmarks.learning.data import images
from tests.benchmarks.learning.jobs import Task
from tests.benchmarks.learning.nets import plain
from tests.benchmarks.learning.rows import Regression

ROWS = "backprop", "DNI", "cDNI", "critic", "local-head"


def main() -> None:
    """Train and print."""
    parser = options_of(__doc__, regression=Regression("linear", "mlp"), rows=ROWS)
    add_training(parser, batch=64)
    parser.add_argument("--cut", default="hidden1", metavar="MODULE")
    parser.add_argument("--norm", action="store_true", help="batch norm after each linear layer")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    data = partial(images, options.data)
    task = Task(
        f"two hidden layers{' with batch norm' * options.norm}, cut after {options.cut}",
        data,
        partial(plain, norm=options.norm),
        f"at:after={options.cut}",
        options.batch,
        steps_of(options, data()),
        options.points,
        lr=options.lr,
        decay=options.decay,
    )
    show(runs_of([task], options))


if __name__ == "__main__":
    main()
