"""Fully connected nets of the DNI paper, cut after every hidden layer.

    python -m tests.benchmarks.learning.mnist [--data FILE.npz] [--hidden 3 4 5 6] [--epochs 10]
        [--rows NAMES] [--seeds 3] [--jobs N] [--json FILE]

Hidden layers are 256 wide: linear, batch norm, ReLU. The file holds `x_train`, `y_train`, `x_test` and
`y_test`; without it scikit-learn's digits are learned. Prints, for each number of hidden layers, test loss
and error of each way to train, after the same steps and after the time that backprop takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.benchmarks.learning.command import add_training, options_of, runs_of, show, steps_of
from tests.benchmarks.learning.data import Images, images
from tests.benchmarks.learning.jobs import Task
from tests.benchmarks.learning.nets import fcn
from tests.benchmarks.learning.rows import Regression


def task_of(hidden: int, data: Callable[[], Images], batch: int, steps: int, **options: Any) -> Task:
    """A net with so many hidden layers, cut after each of them."""
    cuts = "+".join(f"hidden{number}" for number in range(1, hidden + 1))
    net = partial(fcn, hidden=hidden)
    return Task(f"{hidden} hidden layers", data, net, f"at:after={cuts}", batch, steps, **options)


def main() -> None:
    """Train and print."""
    parser = options_of(__doc__, regression=Regression("linear", "mlp", "dni:lr=0.01,warmup=235", pace=0.3))
    add_training(parser)
    parser.add_argument("--hidden", type=int, nargs="+", default=[3, 4, 5, 6])
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    data = partial(images, options.data)
    steps = steps_of(options, data())
    tasks = [
        task_of(hidden, data, options.batch, steps, points=options.points, lr=options.lr, decay=options.decay)
        for hidden in options.hidden
    ]
    show(runs_of(tasks, options))


if __name__ == "__main__":
    main()
