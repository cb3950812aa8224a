"""Nets as rows of blocks that can be cut between any two, each with a batch and its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORDS = 65


@dataclass(frozen=True)
class Task:
    """A net in blocks, one batch for it, and where two processes of equal work meet.

    `synthesizer` is what guesses gradients there.
    """

    blocks: Callable[[], list[nn.Module]]
    batch: Callable[[int], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    size: int
    middle: int
    synthesizer: str

    def cuts(self, ranks: int) -> list[int]:
        """The numbers of the last blocks of all ranks but the last."""
        count = len(self.blocks())
        return [self.middle] if ranks == 2 else [at * count // ranks - 1 for at in range(1, ranks)]

    def part(self, rank: int, ranks: int) -> nn.Sequential:
        """The blocks of one rank."""
        ends = [-1, *self.cuts(ranks), len(self.blocks()) - 1]
        return nn.Sequential(*self.blocks()[ends[rank] + 1 : ends[rank + 1] + 1])


class Block(nn.Module):
    """A transformer block that looks back only: (batch, time, width) to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same."""
        batch, time, width = x.shape
        asked = self.ask(self.norm1(x)).view(batch, time, 3, self.heads, width // self.heads)
        found = F.scaled_dot_product_attention(*asked.permute(2, 0, 3, 1, 4), is_causal=True)
        x = x + self.project(found.transpose(1, 2).reshape(batch, time, width))
        return x + self.inner(self.norm2(x))


class Words(nn.Module):
    """Numbers of words to vectors that know their place: (batch, time) to (batch, time, width)."""

    def __init__(self, width: int, time: int) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(WORDS, width), nn.Parameter(torch.zeros(time, width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time) to (batch, time, width)."""
        return self.word(x) + self.place[: x.shape[1]]


class Residual(nn.Module):
    """Two convolutions with batch norm around which the input passes."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        stride = width // before
        self.inner = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.around = nn.Conv2d(before, width, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before, height, width) to (batch, width, height / stride, width / stride)."""
        return F.relu(self.inner(x) + self.around(x))


def gpt(width: int = 192, depth: int = 6, time: int = 64) -> list[nn.Module]:
    """A GPT of characters."""
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, WORDS))
    return [Words(width, time), *[Block(width, 6) for _ in range(depth)], head]


def resnet(each: int = 3) -> list[nn.Module]:
    """ResNet-20 for pictures of 32 by 32."""
    widths = [16] * each + [32] * each + [64] * each
    first = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    blocks = [Residual(before, width) for before, width in zip([16, *widths], widths, strict=False)]
    return [first, *blocks, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))]


def mlp(width: int = 512, depth: int = 10) -> list[nn.Module]:
    """Ten layers of 512."""
    hidden = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth - 1)]
    return [nn.Sequential(nn.Linear(784, width), nn.ReLU()), *hidden, nn.Linear(width, 10)]


def _words(size: int) -> tuple[Tensor, Tensor]:
    both = torch.randint(WORDS, (2, size, 64))
    return both[0], both[1]


def _of_words(scores: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(scores.flatten(0, 1), target.flatten())


TASKS = {
    "gpt": Task(gpt, _words, _of_words, 32, 3, "linear"),
    "resnet": Task(
        resnet,
        lambda n: (torch.randn(n, 3, 32, 32), torch.randint(10, (n,))),
        F.cross_entropy,
        64,
        4,
        "linear",
    ),
    "mlp": Task(
        mlp, lambda n: (torch.randn(n, 784), torch.randint(10, (n,))), F.cross_entropy, 256, 4, "linear"
    ),
}
"""By name."""
