"""Models whose every value is one tensor of one shape."""

import torch
from torch import Tensor, nn

WIDTH = 6


class Chain(nn.Module):
    """The shape of a graph that every cut fits."""

    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class Residual(Chain):
    """Every value is read twice."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) + x
        return x


class SkipsTwoStages(Chain):
    """The first value is read again at the end."""

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.layers[0](x))
        second = torch.tanh(self.layers[1](first))
        third = torch.tanh(self.layers[2](second))
        fourth = torch.tanh(self.layers[3](third)) + first
        return self.layers[4](fourth)


class Tied(Chain):
    """One layer runs in the first stage and again in the last."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[4] = self.layers[0]


class TwoNames(nn.Module):
    """One child of the model itself has two names, and one name has no child."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.middle = nn.Linear(WIDTH, WIDTH)
        self.last = self.first
        self.register_module("none", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x)))))


class TiedWeight(Chain):
    """Two layers hold one parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[4].weight = self.layers[0].weight


class Frozen(Chain):
    """A frozen layer still passes a gradient to what lies below it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[2].requires_grad_(False)


class FrozenStart(Chain):
    """Nothing learns before the third layer, so a cut there would carry no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[0].requires_grad_(False)
        self.layers[1].requires_grad_(False)


class NeverRead(Chain):
    """A parameter takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(WIDTH, WIDTH)


class OwnParameters(nn.Module):
    """Parameters of the model itself, read by name."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(WIDTH))
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.shift = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x * self.gain))
        return self.second(x * self.gain.exp()) + self.shift * self.gain


class MatrixOfBatch(Chain):
    """A reduction over the batch ties the samples together."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) - x.mean(0, keepdim=True)
        return x


def rows(count: int = 3) -> tuple[Tensor]:
    return (torch.randn(count, WIDTH),)


MODELS = {
    "chain": lambda: (Chain(), rows()),
    "sequential": lambda: (
        nn.Sequential(nn.Linear(WIDTH, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 4)),
        rows(),
    ),
    "residual": lambda: (Residual(), rows()),
    "skips-two-stages": lambda: (SkipsTwoStages(), rows()),
    "tied-layer": lambda: (Tied(), rows()),
    "two-names": lambda: (TwoNames(), rows()),
    "tied-weight": lambda: (TiedWeight(), rows()),
    "frozen-layer": lambda: (Frozen(), rows()),
    "frozen-start": lambda: (FrozenStart(), rows()),
    "never-read": lambda: (NeverRead(), rows()),
    "own-parameters": lambda: (OwnParameters(), rows()),
    "mean-over-batch": lambda: (MatrixOfBatch(), rows()),
}
