"""Models that draw random numbers in other ways than dropout."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.plain import WIDTH, Chain, rows


class KindsOfNoise(Chain):
    """Each layer has noise of its own kind: alpha dropout, RReLU, Gumbel, and a mask by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.leaky = nn.AlphaDropout(0.3), nn.RReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.alpha(F.selu(self.layers[0](x)))
        x = self.leaky(self.layers[1](x))
        x = torch.tanh(self.layers[2](x * F.gumbel_softmax(x, tau=0.5)))
        if self.training:
            x = x * torch.bernoulli(torch.full_like(x, 0.7)) / 0.7
        return self.layers[4](torch.tanh(self.layers[3](x)))


class DropPath(nn.Module):
    """Drops whole samples; the mask is drawn in the shape of the batch."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class DropsPaths(nn.Module):
    """Residual branches that are left out for some samples, more of them the deeper they are."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), DropPath(0.2 * depth)) for depth in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class Reparametrized(nn.Module):
    """A variational autoencoder: the code is drawn, and mean and variance are returned too."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mean, self.spread = nn.Linear(WIDTH, 5), nn.Linear(5, 2), nn.Linear(5, 2)
        self.decode = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.tanh(self.encode(x))
        mean, spread = self.mean(hidden), self.spread(hidden)
        code = mean + torch.randn_like(spread) * (0.5 * spread).exp() if self.training else mean
        return self.decode(code), mean, spread


MODELS = {
    "kinds-of-noise": lambda: (KindsOfNoise(), rows()),
    "drops-paths": lambda: (DropsPaths(), rows()),
    "reparametrized": lambda: (Reparametrized(), rows()),
}
