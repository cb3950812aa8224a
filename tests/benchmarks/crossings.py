"""Bytes that cross, against balance: `min-cut` beside `balanced` on nets that no narrow cut divides.

    python -m tests.benchmarks.crossings [--slacks 0.05 0.1 0.2 0.4]

Prints for each net and number of stages the cost of the costliest stage over the mean (FLOPs, forward and
backward) and the bytes that cross, each value counted once; then how `min-cut` does when it is given the
balance of `balanced` as its slack, and where it crosses fewer bytes at a balance as good.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import networkx as nx
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx, nn

from dni_fx.errors import PlanError
from dni_fx.policies.balanced import Balanced
from dni_fx.policies.base import Policy
from dni_fx.policies.min_cut import MinCut
from passes.anchors import set_anchors
from passes.annotate_shapes import annotate
from passes.costs import flops
from passes.dataflow import carrying, computed, dataflow

WIDTHS = 2, 8
"""How many values `balanced` lets cross."""


def twice(given: int, made: int) -> nn.Sequential:
    """Two convolutions, each with batch norm and ReLU."""
    return nn.Sequential(
        *(nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU()),
        *(nn.Conv2d(made, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU()),
    )


class UNet(nn.Module):
    """Levels of half the size and twice the channels, read again by the level of their size on the way up."""

    def __init__(self, width: int = 16, levels: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(twice(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * one, one, 2, stride=2) for one in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(twice(2 * one, one) for one in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for level in self.down:
            x = level(nn.functional.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(kept[:-1]), strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


class Dense(nn.Module):
    """A layer with a bottleneck that reads what all before it have made."""

    def __init__(self, given: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(given), nn.Conv2d(given, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, made: list[Tensor]) -> Tensor:
        hidden = self.conv1(torch.relu(self.norm1(torch.cat(made, 1))))
        return self.conv2(torch.relu(self.norm2(hidden)))


class DenseNet(nn.Module):
    """Blocks of dense layers, each with a transition to half the channels and half the size after it."""

    def __init__(self, growth: int = 12, sizes: tuple[int, ...] = (6, 12, 8)) -> None:
        super().__init__()
        width = 2 * growth
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for size in sizes:
            self.blocks.append(nn.ModuleList(Dense(width + at * growth, growth) for at in range(size)))
            width += size * growth
            self.transitions.append(
                nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False))
            )
            width //= 2
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            made = [x]
            for layer in block:
                made.append(layer(made))
            x = nn.functional.avg_pool2d(transition(torch.cat(made, 1)), 2)
        return self.head(x.mean((2, 3)))


def nets() -> dict[str, nx.DiGraph[str]]:
    """The dataflow of each net for a batch of images."""
    made: dict[str, tuple[nn.Module, Tensor]] = {
        "U-Net": (UNet(), torch.zeros(4, 3, 64, 64)),
        "DenseNet": (DenseNet(), torch.zeros(8, 3, 32, 32)),
    }
    return {name: flow_of(*each) for name, each in made.items()}


def flow_of(model: nn.Module, example: Tensor) -> nx.DiGraph[str]:
    """The annotated dataflow of a model that symbolic tracing can take."""
    gm = fx.symbolic_trace(model)
    set_anchors(gm.graph)
    annotate(gm, [example])
    return dataflow(gm)


def measured(policy: Policy, flow: nx.DiGraph[str]) -> tuple[float, int] | None:
    """Cost of the costliest stage over the mean, and bytes that cross; None if there is no plan."""
    try:
        plan = policy.plan(flow)
    except PlanError:
        return None
    stage = {name: plan.stage_of[flow.nodes[name]["anchor"]] for name in computed(flow)}
    cost = [0] * len(plan)
    for name, one in flops(flow).items():
        cost[stage[name]] += one
    held = set(carrying(flow))
    sent = sum(
        flow.nodes[name]["bytes"]
        for name in held
        if any(stage[reader] > stage[name] for reader in held.intersection(flow.succ[name]))
    )
    return max(cost) * len(cost) / sum(cost), sent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slacks", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4])
    slacks: list[float] = parser.parse_args().slacks
    heads = [f"min-cut, slack {slack}" for slack in slacks]
    table = Table(
        "net", "stages", "width", "balanced: max/mean, MB", *heads, "at the balance of balanced", "fewer"
    )
    for cells in rows(slacks):
        table.add_row(*cells)
    Console(width=150).print(table)


def rows(slacks: list[float]) -> Iterator[list[str]]:
    """The table's cells as text."""
    for name, flow in nets().items():
        for stages, width in itertools.product(range(2, 7), WIDTHS):
            base = measured(Balanced(stages, width), flow)
            if base is None:
                continue
            found = [measured(MinCut(stages, slack), flow) for slack in slacks]
            equal = measured(MinCut(stages, base[0] - 1), flow)
            fewer = equal is not None and equal[0] <= base[0] and equal[1] < base[1]
            share = f"{1 - equal[1] / base[1]:.0%}" if equal and fewer else "no"
            yield [name, str(stages), str(width), *map(shown, [base, *found, equal]), share]


def shown(measure: tuple[float, int] | None) -> str:
    """A measure as text."""
    return "none" if measure is None else f"{measure[0]:.3f} {measure[1] / 1e6:.2f}"


if __name__ == "__main__":
    main()
