"""What the nets learn: images with labels, and text."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

JUDGED = 500
"""How many samples one batch of judging has."""
WINDOWS = 512
"""How many windows of held-out text there are at most."""

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Images:
    """Images `(samples, channels, height, width)` as bytes, to train on and to judge by, and their labels."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return int(max(self.y.max(), self.test_y.max())) + 1

    def epoch(self, size: int) -> int:
        """How many batches of this size there are; what is left over waits for another order."""
        return max(len(self.x) // size, 1)

    def batches(self, size: int, seed: int) -> Iterator[Batch]:
        """Batches without end, of floats in [0, 1] and labels; each epoch has an order of its own."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.x), generator=generator)
            if len(order) < size:
                order = order.repeat(-(-size // len(order)))
            for at in range(0, len(order) - size + 1, size):
                chosen = order[at : at + size]
                yield self.x[chosen] / 255, self.y[chosen]

    def held_out(self) -> Iterator[Batch]:
        """All that is judged by, in the same order each time."""
        for x, y in zip(self.test_x.split(JUDGED), self.test_y.split(JUDGED), strict=True):
            yield x / 255, y


@dataclass(frozen=True)
class Text:
    """Text as ids of characters; the last tenth is judged by."""

    train: Tensor
    test: Tensor
    classes: int
    time: int

    def epoch(self, size: int) -> int:
        """How many batches have as many characters as there are."""
        return max(len(self.train) // (size * self.time), 1)

    def batches(self, size: int, seed: int) -> Iterator[Batch]:
        """Batches without end: ids `(size, time)` at random places, and the ids one place further."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            starts = torch.randint(len(self.train) - self.time, (size, 1), generator=generator)
            yield _windows(self.train, starts, self.time)

    def held_out(self) -> Iterator[Batch]:
        """Windows that are spread evenly over what is judged by, the same ones each time."""
        last = len(self.test) - self.time - 1
        count = min(WINDOWS, max(last // self.time, 1))
        for starts in torch.linspace(0, last, count).long().unsqueeze(1).split(64):
            yield _windows(self.test, starts, self.time)


Data = Images | Text


def _windows(ids: Tensor, starts: Tensor, time: int) -> Batch:
    places = starts + torch.arange(time)
    return ids[places], ids[places + 1]


@functools.cache
def images(path: Path | None) -> Images:
    """The `x_train`, `y_train`, `x_test` and `y_test` of an npz file; without one, scikit-learn's digits.

    Images are bytes, `(samples, height, width)` with or without channels, which may come first or last.
    """
    if path is None:
        return _digits()
    with np.load(path) as file:
        x, y, test_x, test_y = (
            torch.from_numpy(file[name]) for name in ("x_train", "y_train", "x_test", "y_test")
        )
    return Images(_channels_first(x), y.long(), _channels_first(test_x), test_y.long())


def _channels_first(x: Tensor) -> Tensor:
    if x.dim() == 3:
        return x.unsqueeze(1)
    return x.movedim(-1, 1).contiguous() if x.shape[-1] in (1, 3) else x


def _digits() -> Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.from_numpy(found.images / 16 * 255).round().byte().unsqueeze(1)
    y = torch.from_numpy(found.target).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    (test_x, x), (test_y, y) = x[order].split([450, len(x) - 450]), y[order].split([450, len(x) - 450])
    return Images(x, y, test_x, test_y)


@functools.cache
def text(path: Path | None, time: int) -> Text:
    """The characters of a file; without one, of a list of sums."""
    characters = path.read_text() if path is not None else _sums()
    known = {character: number for number, character in enumerate(sorted(set(characters)))}
    ids = torch.tensor([known[character] for character in characters])
    held = len(ids) // 10
    return Text(ids[:-held], ids[-held:], len(known), time)


def _sums() -> str:
    draw = random.Random(0)
    pairs = [(draw.randrange(100), draw.randrange(100)) for _ in range(2000)]
    return "\n".join(f"{one} and {other} are {one + other}" for one, other in pairs)
