"""What capturing costs beyond the front-end that it chose.

    python -m tests.benchmarks.capture [--rounds 5] [--no-architectures]

Prints, for each model, the median and the least time of capturing by that front-end alone, by
`auto:check=false` (which tries cheaper front-ends first), and by `auto` with its check; ratios are of the
least times. Rounds alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import dni_fx
from tests.zoo.architectures import ARCHITECTURES


class Residual(nn.Module):
    """A block of two convolutions around which the input passes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def plain() -> dict[str, tuple[nn.Module, Any]]:
    """Models that symbolic tracing can take."""
    resnet = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), *(Residual(16) for _ in range(9)), nn.Flatten(), nn.Linear(4096, 10)
    )
    mlp = nn.Sequential(*(layer for _ in range(10) for layer in (nn.Linear(512, 512), nn.ReLU())))
    return {
        "residual convolutions": (resnet, (torch.randn(8, 3, 16, 16),)),
        "mlp": (mlp, (torch.randn(8, 512),)),
    }


def published() -> dict[str, tuple[nn.Module, Any]]:
    """Models that symbolic tracing cannot take."""
    names = ("bert", "llama", "t5", "resnet", "swin")
    return {name: (ARCHITECTURES[name].model(), ARCHITECTURES[name].call(2)) for name in names}


def chosen_by(model: nn.Module, inputs: Any) -> str:
    """The name of the front-end whose graph `auto` takes."""
    return dni_fx.capture(model, inputs).history[-1].removeprefix("train: ").partition(":")[0]


def seconds(run: Callable[[], object]) -> float:
    """How long it takes once."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def row(name: str, model: nn.Module, inputs: Any, rounds: int) -> list[str]:
    """The measurements of one model as text."""
    chosen = chosen_by(model, inputs)
    runs: dict[str, Callable[[], object]] = {
        "alone": lambda: dni_fx.capture(model, inputs, frontend=chosen),
        "unchecked": lambda: dni_fx.capture(model, inputs, frontend="auto:check=false"),
        "checked": lambda: dni_fx.capture(model, inputs),
    }
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(rounds):
        for kind, run in runs.items():
            times[kind].append(seconds(run))
    least = min(times["alone"])
    cells = [f"{1e3 * statistics.median(t):.0f} ({1e3 * min(t):.0f})" for t in times.values()]
    ratios = [f"{min(times[kind]) / least:.2f}" for kind in ("unchecked", "checked")]
    return [name, chosen, *cells, *ratios]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-architectures", action="store_true")
    options = parser.parse_args()
    head = "model", "chosen", "alone, ms: median (least)", "unchecked", "checked"
    table = Table(*head, "unchecked / alone", "checked / alone")
    for name, (model, inputs) in (plain() | ({} if options.no_architectures else published())).items():
        table.add_row(*row(name, model, inputs, options.rounds))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
