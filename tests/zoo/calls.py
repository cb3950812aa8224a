"""Models whose forward, or whose children, are called in unusual ways."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.plain import WIDTH, Chain, rows


class AnyNumberOfInputs(Chain):
    """Inputs come as `*args`, and join one at a time."""

    def forward(self, *inputs: Tensor) -> Tensor:
        x = torch.zeros_like(inputs[0])
        for layer, extra in zip(self.layers, [*inputs, *inputs], strict=False):
            x = torch.tanh(layer(x + extra))
        return x


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(
        self, x: Tensor, skip: Tensor | None = None, *, scale: float = 1.0, act: str = "tanh"
    ) -> Tensor:
        x = getattr(torch, act)(self.layer(x)) * scale
        return x if skip is None else x + skip


class PassesOn(nn.Module):
    """Hands on whatever it is given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class KeywordsToChildren(nn.Module):
    """Children take arguments by name, some left out, through a wrapper that knows none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList(PassesOn(Gate()) for _ in range(4))

    def forward(self, x: Tensor, late: Tensor | None = None) -> Tensor:
        first = self.gates[0](x)
        x = self.gates[1](x=first, scale=0.5)
        x = self.gates[2](x, first, act="sigmoid")
        return self.gates[3](x, skip=first if late is None else late)


class Apply(nn.Module):
    """Runs a function that it was given."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Around(nn.Sequential):
    """A sequential with a residual sum around it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


def nested() -> nn.Sequential:
    """Sequentials in a residual sequential, with lambdas and partial functions between the layers."""
    return nn.Sequential(
        Around(nn.Linear(WIDTH, WIDTH), Apply(torch.tanh)),
        nn.Sequential(Around(nn.Linear(WIDTH, WIDTH), nn.Sequential(nn.GELU(), nn.Linear(WIDTH, WIDTH)))),
        Apply(functools.partial(F.leaky_relu, negative_slope=0.3)),
        nn.Sequential(nn.Identity(), Apply(lambda x: x.unflatten(1, (2, 3)).transpose(1, 2)), nn.Flatten()),
        nn.Linear(WIDTH, 4),
    )


class Containers(nn.Module):
    """Layers by name in a dictionary, parameters in a list and in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("first", "up", "out")})
        self.gains = nn.ParameterList(torch.randn(WIDTH) for _ in range(3))
        self.shifts = nn.ParameterDict({name: torch.randn(WIDTH) for name in ("first", "out")})

    def forward(self, x: Tensor) -> Tensor:
        for (name, layer), gain in zip(self.layers.items(), self.gains, strict=True):
            x = torch.tanh(layer(x) * gain)
            if name in self.shifts:
                x = x + self.shifts[name]
        return x


class OwnMethods(Chain):
    """Forward calls methods, reads a property made of parameters, and a number."""

    scale = 0.5

    @property
    def weight(self) -> Tensor:
        return (self.layers[0].weight + self.layers[0].weight.T) * self.scale

    def embed(self, x: Tensor) -> Tensor:
        return torch.tanh(F.linear(x, self.weight, self.layers[0].bias))

    def body(self, x: Tensor, *, first: int) -> Tensor:
        return x if first == 4 else self.body(torch.tanh(self.layers[first](x)), first=first + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[4](self.body(self.embed(x), first=1) * self.scale)


class ScalarBesideTensors(Chain):
    """One input has no dimension, and one is a whole number for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(4, WIDTH)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        condition = self.classes(label) * torch.sin(time)
        for layer in self.layers[:4]:
            x = torch.tanh(layer(x + condition))
        return self.layers[4](x) / time


class TwoBatches(Chain):
    """The second input has another number of rows than the first."""

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        query = torch.tanh(self.layers[1](torch.tanh(self.layers[0](x))))
        key = torch.tanh(self.layers[2](memory))
        found = torch.softmax(query @ key.T, 1) @ torch.tanh(self.layers[3](key))
        return self.layers[4](found + query)


class ManyToMany(nn.Module):
    """Two towers for two kinds of input, one layer that both share, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(WIDTH, WIDTH)
        self.right = nn.Linear(4, WIDTH)
        self.shared = nn.Linear(WIDTH, WIDTH)
        self.heads = nn.ModuleList([nn.Linear(WIDTH, 3), nn.Linear(2 * WIDTH, 2)])

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        left = torch.tanh(self.shared(torch.tanh(self.left(left))))
        right = torch.tanh(self.shared(torch.tanh(self.right(right))))
        return self.heads[0](left * right), self.heads[1](torch.cat([left, right], 1))


class Siamese(Chain):
    """The same layers run on both inputs, and only their distance is returned."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (super().forward(x) - super().forward(y)).square().sum(1).sqrt()


MODELS = {
    "any-number-of-inputs": lambda: (AnyNumberOfInputs(), (*rows(), *rows(), *rows())),
    "keywords-to-children": lambda: (KeywordsToChildren(), rows()),
    "nested-sequentials": lambda: (nested(), rows()),
    "containers": lambda: (Containers(), rows()),
    "own-methods": lambda: (OwnMethods(), rows()),
    "scalar-beside-tensors": lambda: (
        ScalarBesideTensors(),
        (*rows(), torch.tensor(0.7), torch.tensor([3, 0, 1])),
    ),
    "no-batch": lambda: (Chain(), (torch.randn(WIDTH),)),
    "two-batches": lambda: (TwoBatches(), (*rows(), *rows(5))),
    "many-to-many": lambda: (ManyToMany(), (*rows(), torch.randn(3, 4))),
    "siamese": lambda: (Siamese(), (*rows(), *rows())),
}
