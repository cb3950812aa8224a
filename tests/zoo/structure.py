"""Models whose inputs, outputs or values are not one tensor."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.zoo.plain import WIDTH, Chain, rows


class ChunkAndCat(Chain):
    """A value is a tuple, and what is cut off it is joined again."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.tanh(self.layers[0](x)).chunk(2, dim=1)
        a, b = torch.sigmoid(a) + b, a * b
        x = torch.tanh(self.layers[1](torch.cat([b, a], 1)))
        a, b = self.layers[2](x).chunk(2, dim=1)
        x = self.layers[3](torch.cat([a, b], 1))
        return self.layers[4](torch.tanh(x))


class TwoInputs(Chain):
    """The second input joins late."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = torch.tanh(self.layers[0](x))
        x = torch.tanh(self.layers[1](x))
        y = torch.tanh(self.layers[2](y))
        return self.layers[4](torch.tanh(self.layers[3](x + y)))


class EarlyOutput(Chain):
    """An output that the first stage makes."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.tanh(self.layers[0](x))
        early = self.layers[1](first)
        x = torch.tanh(self.layers[2](first))
        return early, self.layers[4](torch.tanh(self.layers[3](x)))


class ReturnsWhatCrosses(Chain):
    """A value that crosses is also an output."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers[:3]:
            x = torch.tanh(layer(x))
        return x, self.layers[4](torch.tanh(self.layers[3](x)))


class DictOfOutputs(EarlyOutput):
    """Outputs nested in a dictionary and a list, with a number and None among them."""

    def forward(self, x: Tensor) -> dict[str, object]:
        early, late = super().forward(x)
        return {"late": late, "all": [early, (late.sum(), 3)], "none": None, "input": x}


class Pair(NamedTuple):
    early: Tensor
    late: Tensor


class NamedOutputs(EarlyOutput):
    """Outputs in a named tuple."""

    def forward(self, x: Tensor) -> Pair:
        return Pair(*super().forward(x))


@dataclass
class Found:
    early: Tensor
    late: Tensor
    loss: Tensor | None = None


pytree.register_dataclass(Found)


class DataclassOutput(EarlyOutput):
    """Outputs in a data class."""

    def forward(self, x: Tensor) -> Found:
        return Found(*super().forward(x))


class Masked(Chain):
    """A mask is made once and read in every stage; no gradient runs through it."""

    def forward(self, x: Tensor) -> Tensor:
        mask = (x > 0).to(x.dtype)
        for layer in self.layers:
            x = torch.tanh(layer(x)) * mask
        return x


class Shapes(Chain):
    """The batch size is computed with."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = torch.tanh(self.layers[0](x)).reshape(n, 2, -1)
        x = torch.tanh(self.layers[1](x.flatten(1)))
        x = x.view(n, -1) / n
        return self.layers[3](torch.tanh(self.layers[2](x)))


class Embedded(nn.Module):
    """The input is a tensor of numbers, and a side branch of positions is read late."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, WIDTH)
        self.places = nn.Embedding(5, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        places = self.places(torch.arange(tokens.shape[1], device=tokens.device))
        x = torch.tanh(self.first(self.words(tokens)))
        x = torch.tanh(self.second(x + places))
        return self.head(x + places)


class Attention(nn.Module):
    """Two calls of torch's own fused layers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 10, dropout=0.1, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class KeywordOnly(Chain):
    """An optional argument chooses what is computed."""

    def forward(self, x: Tensor, *, scale: float = 1.0, late: Tensor | None = None) -> Tensor:
        for layer in self.layers[:3]:
            x = torch.tanh(layer(x)) * scale
        if late is not None:
            x = x + late
        return self.layers[4](F.gelu(self.layers[3](x)))


MODELS = {
    "chunk-and-cat": lambda: (ChunkAndCat(), rows()),
    "two-inputs": lambda: (TwoInputs(), (*rows(), *rows())),
    "early-output": lambda: (EarlyOutput(), rows()),
    "returns-what-crosses": lambda: (ReturnsWhatCrosses(), rows()),
    "dict-of-outputs": lambda: (DictOfOutputs(), rows()),
    "named-outputs": lambda: (NamedOutputs(), rows()),
    "dataclass-output": lambda: (DataclassOutput(), rows()),
    "masked": lambda: (Masked(), rows()),
    "shapes": lambda: (Shapes(), rows()),
    "embedded": lambda: (Embedded(), (torch.randint(11, (3, 5)),)),
    "attention": lambda: (Attention(), (torch.randn(3, 4, WIDTH),)),
    "keyword-only": lambda: (KeywordOnly(), rows()),
}
