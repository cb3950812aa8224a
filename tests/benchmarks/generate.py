"""Deep, wide and branching models of any size: what `tests.benchmarks.scale` measures.

Each is a real module of tiny layers over values of shape (batch, 4), which symbolic tracing captures. All
values are bounded, so that even the deepest model computes numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice

import torch
from torch import Tensor, nn

WIDTH = 4
"""Features of every value."""
_BLOCK = 5
_LEVELS = 6
_FAN_IN = 4
_OPEN = 32
_ENDS = 2
"""The input and the output of a graph."""


class Residual(nn.Module):
    """A layer, scaled by a parameter of the block itself, around which the input passes: five nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x + self.linear(x) * self.scale)


class Join(nn.Module):
    """A layer over several values: two nodes and one for each value but the first."""

    def __init__(self, sources: Sequence[int]) -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, values: Sequence[Tensor]) -> Tensor:
        total = values[self.sources[0]]
        for source in self.sources[1:]:
            total = total + values[source]
        return torch.tanh(self.linear(total))


class Dag(nn.Module):
    """Layers each of which reads values of earlier ones; value 0 is the input, `ends` are added up."""

    def __init__(self, layers: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Join(sources) for sources in layers)
        read = {source for sources in layers for source in sources}
        self.ends = tuple(at for at in range(len(layers) + 1) if at not in read)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for layer in self.layers:
            values.append(layer(values))
        return torch.stack([values[at] for at in self.ends]).mean(0)


class UNet(nn.Module):
    """Levels of blocks down and up again; the value of each skips to the one that it meets on the way up."""

    def __init__(self, blocks: Sequence[int]) -> None:
        super().__init__()
        levels = [nn.Sequential(*(Residual() for _ in range(count))) for count in blocks]
        self.down = nn.ModuleList(levels[:_LEVELS])
        self.up = nn.ModuleList(levels[_LEVELS:])

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level in self.down:
            x = level(x)
            skips.append(x)
        for level in self.up:
            x = torch.tanh(level(x) + skips.pop())
        return x


class Towers(nn.Module):
    """Chains beside one another over one input, joined at the end."""

    def __init__(self, blocks: Sequence[int]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(nn.Sequential(*(Residual() for _ in range(count))) for count in blocks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([tower(x) for tower in self.towers]).mean(0)


def chain(nodes: int) -> nn.Module:
    """A deep residual chain: one value crosses any cut between blocks."""
    return nn.Sequential(*(Residual() for _ in range((nodes - _ENDS) // _BLOCK)))


def unet(nodes: int) -> nn.Module:
    """Six levels at any size: the skips are as long as the graph, and seven values cross in the middle."""
    return UNet(_shares((nodes - _ENDS - 2 * _LEVELS) // _BLOCK, 2 * _LEVELS))


def dense(nodes: int) -> nn.Module:
    """Each layer reads the four before it."""
    first = _FAN_IN * (_FAN_IN - 1) // 2  # the first layers have fewer values to read
    layers = (nodes - _ENDS - 2 + first) // (_FAN_IN + 1)
    return Dag([range(max(0, at - _FAN_IN + 1), at + 1) for at in range(layers)])


def towers(nodes: int) -> nn.Module:
    """As many towers as each has nodes: a cut through all of them is as wide as the graph is long."""
    count = max(1, round(nodes**0.5))
    return Towers(_shares((nodes - _ENDS - 2) // _BLOCK, count))


def tangle(nodes: int) -> nn.Module:
    """A random graph: layers read one or two of the last 32 values, first of all such as nobody has read."""
    draw = random.Random(nodes)
    layers: list[list[int]] = []
    waiting, last, left = [0], 0, nodes - _ENDS - 2  # what is read by nobody is joined by two nodes
    while left >= 3:
        kept = len(waiting) < _OPEN and draw.random() < 0.4
        first = draw.choice(waiting)
        if not kept:
            waiting.remove(first)
        second = draw.randrange(max(0, last - _OPEN), last + 1)
        sources = sorted({first, second})
        layers.append(sources)
        left -= 1 + len(sources)
        last += 1
        waiting.append(last)
    return Dag(layers)


KINDS: Mapping[str, Callable[[int], nn.Module]] = {
    "chain": chain,
    "unet": unet,
    "dense": dense,
    "towers": towers,
    "tangle": tangle,
}
"""Shapes of graphs by name."""


def generate(kind: str, nodes: int) -> tuple[nn.Module, Tensor]:
    """A model whose graph has about so many nodes (5 % off at most, from 100 on), and an example for it.

    The same call gives the same model, weights included; random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KINDS[kind](nodes), torch.randn(2, WIDTH)


def _shares(total: int, parts: int) -> list[int]:
    """Whole numbers as equal as can be, which add up to the total."""
    each, rest = divmod(total, parts)
    return list(islice(cycle([each + 1]), rest)) + [each] * (parts - rest)
