"""Modules that symbolic tracing cannot, or must not, look into."""

import torch
from torch import nn


class Branches(nn.Module):
    """Asks for a size in an `if`, which symbolic tracing cannot follow, after it has called a child."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        x = self.inner(x * self.weight)
        if x.shape[1] > 3:
            return x * self.weight
        return x - self.weight


class Around(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 6), middle, nn.Linear(6, 6)
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x):
        x = torch.tanh(self.first(x)) * self.gain
        return self.last(torch.tanh(self.middle(x))) * self.gain


class DrawsAtTraceTime(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return self.inner(x) + torch.rand(6, dtype=torch.float64)


class WithoutGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        with torch.no_grad():
            scale = self.inner(x).mean()
        return x * scale


class ReadsTwice(nn.Module):
    """Reads its parameter again after the untraceable child has been rolled back."""

    def __init__(self):
        super().__init__()
        self.child = Branches()
        self.outer = nn.Linear(6, 6)

    def forward(self, x):
        return self.outer(self.child(x) * self.child.weight) + self.child.weight


class OneBigOpaqueBlock(nn.Module):
    """Python code reads a size, which symbolic tracing cannot follow but export can."""

    def __init__(self):
        super().__init__()
        self.block = Reads()

    def forward(self, x):
        return self.block(x)


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        if x.shape[1] != 6:
            raise ValueError
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class BranchesOnData(nn.Module):
    """The sign of a sum decides which of two layers is run."""

    def __init__(self):
        super().__init__()
        self.first, self.up, self.down = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.up(x) if x.sum() > 0 else self.down(x)


class ReadsANumber(nn.Module):
    """A number that is read from a tensor scales the next layer, and decides how often it runs."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        largest = x.abs().max().item()
        for _ in range(1 + int(2 * largest)):
            x = torch.tanh(self.again(x)) / (1 + largest)
        return x


class DropsLayers(nn.Module):
    """Which layers run is drawn anew at each call, by a number that is read from a tensor."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        x = torch.tanh(self.first(x))
        for layer in self.layers:
            if not self.training or torch.rand(1).item() > 0.3:
                x = x + torch.tanh(layer(x))
        return x
