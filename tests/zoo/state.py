"""Models that draw random numbers, change buffers or write to memory."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.plain import WIDTH, Chain, rows


class Dropout(Chain):
    """Every layer draws a mask, so the order of draws shows."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.dropout(torch.tanh(layer(x)))
        return x


class FunctionalDropout(Chain):
    """Dropout as a function: whether it draws is a number in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.dropout(torch.tanh(layer(x)), 0.4, self.training)
        return x


class BranchesDraw(Chain):
    """The early branch draws its random numbers after the late one."""

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.layers[0](x))
        x = F.dropout(torch.tanh(self.layers[1](first)), 0.4, self.training)
        x = F.dropout(torch.tanh(self.layers[2](x)), 0.4, self.training)
        side = F.dropout(torch.tanh(self.layers[3](first)), 0.4, self.training)
        return self.layers[4](x + side)


class InPlace(nn.Module):
    """Activations that write over what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(5))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return x


class InPlaceAdd(Chain):
    """A stage adds to a value that came from another."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = layer(x)
            y += x
            x = torch.tanh(y)
        return x


class WritesRows(Chain):
    """An assignment to part of a tensor, whose result nobody reads."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layers[0](x))
        y = torch.zeros_like(x)
        y[:, :3] = self.layers[1](x)[:, :3]
        y[:, 3:] = x[:, 3:]
        y = torch.tanh(self.layers[2](y))
        return self.layers[4](torch.tanh(self.layers[3](y)))


class Views(Chain):
    """A view of a value is written to, and the value itself read afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[1](torch.tanh(self.layers[0](x)))
        x.view(-1).mul_(2.0)
        x = torch.tanh(self.layers[2](x))
        return self.layers[4](torch.tanh(self.layers[3](x)))


class Counts(Chain):
    """A buffer of the model's own counts calls and is read in the last stage."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x / self.calls


class BatchNorm(nn.Module):
    """Running statistics move in train mode and are read in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        return x


class OneNormForAll(BatchNorm):
    """One batch norm is called in every stage."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([self.norms[0]] * 3)


class ModesDiffer(Chain):
    """A branch on `self.training` inside the model."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
            if self.training:
                x = x + torch.randn_like(x) * 0.1
        return x


MODELS = {
    "dropout": lambda: (Dropout(), rows()),
    "functional-dropout": lambda: (FunctionalDropout(), rows()),
    "branches-draw": lambda: (BranchesDraw(), rows()),
    "in-place-relu": lambda: (InPlace(), rows()),
    "in-place-add": lambda: (InPlaceAdd(), rows()),
    "writes-rows": lambda: (WritesRows(), rows()),
    "writes-through-a-view": lambda: (Views(), rows()),
    "counts-calls": lambda: (Counts(), rows()),
    "batch-norm": lambda: (BatchNorm(), rows()),
    "one-norm-for-all": lambda: (OneNormForAll(), rows()),
    "modes-differ": lambda: (ModesDiffer(), rows()),
}
