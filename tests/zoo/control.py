"""Models whose Python code decides what is computed, or under which of torch's modes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.zoo.plain import WIDTH, Chain, rows


class Configured(Chain):
    """Flags, a dictionary of functions, an early return, and an error that is caught."""

    flags = {"act": "gelu", "norm": None, "depth": 4}
    acts = {"gelu": F.gelu, "tanh": torch.tanh}

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        step = start
        while step < self.flags["depth"]:
            x = self.acts[self.flags["act"]](self.layers[step](x))
            step += 1
        try:
            x = x * self.gain
        except AttributeError:
            x = x * 2
        if self.flags["norm"] is None:
            return self.layers[4](x)
        return F.normalize(self.layers[4](x))


class AsksForKinds(nn.Module):
    """What is done to a value depends on the class of the layer, and of the value."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 8), nn.GLU(), nn.Linear(4, 3)]
        )

    def forward(self, x: Tensor | tuple[Tensor, ...]) -> Tensor:
        x = x[0] if isinstance(x, tuple) else x
        for layer in self.layers:
            if isinstance(layer, nn.Linear) and layer.in_features == layer.out_features:
                x = layer(x) + x
            else:
                x = layer(x)
        return x


class Tree(nn.Module):
    """Recursion over a tree: the leaves are slices of the input."""

    tree = ((0, 1), (2, (3, 4)))

    def __init__(self) -> None:
        super().__init__()
        self.leaf = nn.Linear(2, WIDTH)
        self.join = nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def value(self, tree: Any, x: Tensor) -> Tensor:
        if isinstance(tree, int):
            return torch.tanh(self.leaf(x[:, tree : tree + 2]))
        return torch.tanh(self.join(torch.cat([self.value(branch, x) for branch in tree], 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.value(self.tree, x))


class BranchesOnShape(Chain):
    """The number of features, which symbolic tracing does not know, decides what is computed."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
            if x.shape[-1] % 2 == 0 and x.dim() == 2:
                x = x + x.flip(-1)
        return x


class RegionsWithoutGradient(Chain):
    """A statistic without gradient in every usual way: no_grad, set_grad_enabled, detach."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layers[0](x))
        with torch.no_grad():
            scale = 1 + self.layers[1](x).abs().mean(1, keepdim=True)
        x = torch.tanh(self.layers[2](x / scale))
        with torch.set_grad_enabled(False):
            shift = x.mean(1, keepdim=True)
            with torch.enable_grad():
                x = torch.tanh(self.layers[3](x))
        return self.layers[4](x - shift - x.detach().mean(1, keepdim=True))


class RegionsInChildren(nn.Module):
    """A teacher that runs without gradient, and a child that computes under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.teacher = NoGradient(nn.Linear(WIDTH, WIDTH))
        self.low = Autocast(nn.Linear(WIDTH, WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.student(x))
        x = torch.tanh(self.low(x)).to(x.dtype) + self.teacher(x)
        return self.head(x)


class NoGradient(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Autocast(NoGradient):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x)


class Negate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Tensor:
        return -gradient[0]


class Reverses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Negate.apply(x)


class CustomBackward(nn.Module):
    """A child brings its own backward, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.reverse = Reverses()
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.reverse(self.body(x)))


class Again(nn.Module):
    """Runs its layers again in backward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.3), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


class CheckpointsItself(Chain):
    """The outermost forward asks that its layers run again in backward."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(checkpoint(layer, x, use_reentrant=False))
        return x


def checkpointed() -> nn.Module:
    """Blocks that run again in backward between blocks that do not."""
    return nn.Sequential(
        nn.Linear(WIDTH, WIDTH), Again(), nn.Linear(WIDTH, WIDTH), Again(), nn.Linear(WIDTH, 3)
    )


MODELS = {
    "configured": lambda: (Configured(), rows()),
    "asks-for-kinds": lambda: (AsksForKinds(), rows()),
    "recursion-over-a-tree": lambda: (Tree(), rows()),
    "branches-on-shape": lambda: (BranchesOnShape(), rows()),
    "regions-without-gradient": lambda: (RegionsWithoutGradient(), rows()),
    "regions-in-children": lambda: (RegionsInChildren(), rows()),
    "custom-backward": lambda: (CustomBackward(), rows()),
    "checkpoint": lambda: (checkpointed(), rows()),
    "checkpoints-itself": lambda: (CheckpointsItself(), rows()),
}
