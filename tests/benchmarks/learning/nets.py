"""The nets that are cut, each made for its data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.learning.data import Images, Text

HEADS = 4


def fcn(data: Images, hidden: int, width: int = 256, norm: type[nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    """The fully connected net of the DNI paper: hidden layers of linear, batch norm (or another) and ReLU."""
    net = nn.Sequential()
    net.add_module("flat", nn.Flatten())
    features = math.prod(data.shape)
    for number in range(1, hidden + 1):
        layers = nn.Linear(features, width), norm(width), nn.ReLU()
        net.add_module(f"hidden{number}", nn.Sequential(*layers))
        features = width
    net.add_module("output", nn.Linear(features, data.classes))
    return net


def plain(data: Images, norm: bool, width: int = 256) -> nn.Sequential:
    """Two hidden layers of linear and ReLU; with `norm`, the net of `mnist-mlp` in koz4k/dni-pytorch.

    That one has batch norm after every linear layer, the last one too, and no bias.
    """

    def layer(one: int, other: int, last: bool = False) -> nn.Sequential:
        middle = [nn.BatchNorm1d(other)] if norm else []
        return nn.Sequential(nn.Linear(one, other, bias=not norm), *middle, *([] if last else [nn.ReLU()]))

    net = nn.Sequential()
    net.add_module("flat", nn.Flatten())
    net.add_module("hidden1", layer(math.prod(data.shape), width))
    net.add_module("hidden2", layer(width, width))
    net.add_module("output", layer(width, data.classes, last=True))
    return net


def cnn(data: Images, channels: int, blocks: int = 3) -> nn.Sequential:
    """The convolutional net of the DNI paper: 5 by 5, batch norm, ReLU, and a pool that halves each side."""
    net = nn.Sequential()
    before, height, width = data.shape
    for number in range(1, blocks + 1):
        pool = nn.AvgPool2d(3, 2, padding=1) if number > 1 else nn.MaxPool2d(3, 2, padding=1)
        layers = nn.Conv2d(before, channels, 5, padding=2), nn.BatchNorm2d(channels), nn.ReLU(), pool
        net.add_module(f"block{number}", nn.Sequential(*layers))
        before, height, width = channels, -(-height // 2), -(-width // 2)
    net.add_module("flat", nn.Flatten())
    net.add_module("output", nn.Linear(before * height * width, data.classes))
    return net


class Residual(nn.Module):
    """Two convolutions around which the input passes, thinned out where the block is wider and smaller."""

    def __init__(self, before: int, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stride = width // before
        self.inner = nn.Sequential(
            nn.Conv2d(before, width, 3, self.stride, padding=1, bias=False), norm(width), nn.ReLU()
        )
        self.outer = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width))
        self.more = width - before

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before, height, width) to (batch, width, height / stride, width / stride)."""
        around = x
        if self.more:
            around = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(around + self.outer(self.inner(x)))


def resnet(data: Images, width: int, blocks: int = 3, groups: int = 0, stride: int = 1) -> nn.Sequential:
    """Three times `blocks` residual blocks, twice as wide each time; 20 layers with three.

    With `groups` there are group norms in place of batch norms, and the net runs at batch 1.
    """
    norm: Callable[[int], nn.Module] = partial(nn.GroupNorm, groups) if groups else nn.BatchNorm2d
    widths = [width * factor for factor in (1, 2, 4) for _ in range(blocks)]
    channels = data.shape[0]
    first = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
    layers = [Residual(one, other, norm) for one, other in itertools.pairwise([width, *widths])]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], data.classes))
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(first, norm(width), nn.ReLU()))
    net.add_module("blocks", nn.Sequential(*layers))
    net.add_module("head", head)
    return net


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a layer norm and around which the input passes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width), unchanged in shape; no place sees a later one."""
        parts = self.attend(self.before(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.merge(seen.transpose(1, 2).flatten(2))
        return x + self.feed(x)


class GPT(nn.Module):
    """Embeddings of characters and of their places, blocks, and a linear layer behind a norm."""

    def __init__(self, classes: int, time: int, blocks: int, width: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(classes, width)
        self.places = nn.Parameter(torch.randn(time, width) / 50)
        nn.init.normal_(self.characters.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, time) to (batch, time, classes)."""
        return self.output(self.blocks(self.characters(ids) + self.places))


def gpt(data: Text, blocks: int, width: int) -> GPT:
    """A language model of characters."""
    return GPT(data.classes, data.time, blocks, width)
