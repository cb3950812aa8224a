"""Models whose weights are computed, shared, frozen, or have rules of their own."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm

from tests.zoo.plain import WIDTH, Chain, rows


def normed() -> nn.Module:
    """Weights of given norm, of spectral norm one, and orthogonal ones, as parametrizations."""
    model = Chain()
    parametrizations.weight_norm(model.layers[1])
    parametrizations.spectral_norm(model.layers[2])
    parametrizations.orthogonal(model.layers[3])
    return model


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def user_made() -> nn.Module:
    """A weight that a module of the user's own computes, on a layer that runs twice."""
    model = Chain()
    parametrize.register_parametrization(model.layers[2], "weight", Symmetric())
    model.layers[4] = model.layers[2]
    return model


def hooked() -> nn.Module:
    """The older spectral norm: a hook computes the weight and moves a buffer before each call."""
    model = Chain()
    for at in (1, 3):
        spectral_norm(model.layers[at])
    return model


class TiedTransposed(nn.Module):
    """The embedding of the first stage is the head of the last, transposed and not."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WIDTH, WIDTH)
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.tanh(self.first(self.words(tokens)))
        x = torch.tanh(self.second(x @ self.words.weight.t()))
        return F.linear(x, self.words.weight)


class FrozenStage(Chain):
    """All the layers of the middle are frozen, and so is one bias of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[2:4].requires_grad_(False)
        self.layers[4].bias.requires_grad_(False)


class HyperNetwork(nn.Module):
    """One net computes the weights of another from a second input, and from nothing but parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.task = nn.Parameter(torch.randn(3))
        self.from_code = nn.Linear(3, WIDTH * WIDTH)
        self.from_input = nn.Linear(2, WIDTH)
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        weight = torch.tanh(self.from_code(self.task)).view(WIDTH, WIDTH)
        x = torch.tanh(F.linear(x, weight, self.from_input(task)))
        return self.last(torch.tanh(F.conv1d(x.unsqueeze(1), weight[:2, None, :3]).mean(1) @ weight[:4]))


class ChangedOnTheWay(Chain):
    """Weights are scaled, masked, standardized and averaged before they are used."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(WIDTH, WIDTH).tril())

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e = (layer.weight for layer in self.layers)
        x = torch.tanh(F.linear(x, a * self.mask, self.layers[0].bias))
        x = torch.tanh(F.linear(x, (b - b.mean(1, keepdim=True)) / b.std(1, keepdim=True)))
        x = torch.tanh(torch.einsum("bi,oi->bo", x, F.normalize(c)))
        return torch.addmm(self.layers[3].bias, x, (d + e) / 2)


def old_weight_norm() -> nn.Module:
    """The older weight norm: a hook puts a computed weight on the layer before each call."""
    model = Chain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that there is a newer one
        for at in (1, 3):
            torch.nn.utils.weight_norm(model.layers[at])
    return model


MODELS = {
    "parametrizations": lambda: (normed(), rows()),
    "own-parametrization": lambda: (user_made(), rows()),
    "old-weight-norm": lambda: (old_weight_norm(), rows()),
    "old-spectral-norm": lambda: (hooked(), rows()),
    "tied-transposed": lambda: (TiedTransposed(), (torch.randint(WIDTH, (3, 4)),)),
    "frozen-stage": lambda: (FrozenStage(), rows()),
    "hypernetwork": lambda: (HyperNetwork(), (*rows(), torch.randn(2))),
    "weights-changed-on-the-way": lambda: (ChangedOnTheWay(), rows()),
}
