"""What is trained: a net of some depth, its data, and the size of a batch."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.benchmarks.learning.data import Batch, Data, Images, Text, images
from tests.benchmarks.learning.nets import fcn, gpt, resnet
from tests.benchmarks.learning.records import said

CHARACTERS = 65
"""Up to so many classes are characters of the text; more are words, signs and gaps."""
READ, JUDGED = 2_000_000, 8_192
"""Characters that are read of a text, and classes of it that are judged by, at most."""
FACTOR = 4
"""How much larger the digits are made for a convolutional net: 32 by 32."""
GROUPS = 4


@dataclass(frozen=True)
class Setting:
    """A net and what it learns. `time` is the length of a sample of text, and 0 where there are images."""

    net: str
    depth: int
    width: int
    batch: int
    time: int = 0
    vocabulary: int = 0
    data: str = ""

    def __str__(self) -> str:
        sizes = f", {self.vocabulary:,} classes, {self.time:,} tokens" if self.time else ""
        return f"{self.net}, depth {self.depth}, width {self.width}{sizes}, batch {self.batch}"

    @property
    def key(self) -> str:
        """All that it says, as text."""
        return said(self)

    def load(self) -> Data:
        """What is learned."""
        path = Path(self.data) if self.data else None
        if self.time:
            return text(path, self.time, self.vocabulary)
        return enlarged(path) if self.net == "resnet" else images(path)

    def build(self) -> nn.Module:
        """The net with random weights."""
        return BUILDERS[self.net](self)(self.load())

    def batches(self, seed: int = 0) -> Iterator[Batch]:
        """Batches without end, the same ones for the same seed."""
        return self.load().batches(self.batch, seed)


BUILDERS: dict[str, Callable[[Setting], Callable[[Data], nn.Module]]] = {
    "mlp": lambda of: partial(fcn, hidden=of.depth, width=of.width, norm=nn.LayerNorm),
    "resnet": lambda of: partial(resnet, width=of.width, blocks=of.depth // 3, groups=GROUPS),
    "gpt": lambda of: partial(gpt, blocks=of.depth, width=of.width),
}
"""Nets without batch norm, so that a batch may have one sample, and micro-batches learn what a batch does."""

KNOWN = {
    "mlp": Setting("mlp", depth=32, width=256, batch=512),
    "resnet": Setting("resnet", depth=27, width=16, batch=32),
    "gpt": Setting("gpt", depth=16, width=128, batch=1, time=2048, vocabulary=CHARACTERS),
    "gpt-16k": Setting("gpt", depth=16, width=128, batch=1, time=2048, vocabulary=16_384),
}
"""The nets that a command knows by name; a residual net has a third of its depth at each width."""


def setting(name: str, data: dict[str, Path | None], **changes: int) -> Setting:
    """A known setting with what is not 0 changed; a net on images has no time and no vocabulary.

    >>> setting("mlp", {}, depth=8, time=64)
    Setting(net='mlp', depth=8, width=256, batch=512, time=0, vocabulary=0, data='')
    """
    known = KNOWN[name]
    wanted = {field: value for field, value in changes.items() if value and getattr(known, field)}
    path = data.get("text" if known.time else "images")
    return replace(known, data=str(path) if path else "", **wanted)


def text(path: Path | None, time: int, vocabulary: int) -> Text:
    """A file as ids of its most frequent characters or words, the last of which stands for all others.

    Without a file the modules of Python's own library are read.
    """
    ids = _ids(path, vocabulary)
    held = len(ids) // 10
    judged = min(held, max(JUDGED, time) + time + 1)
    return Text(ids[:-held], ids[-held:][:judged], vocabulary, time)


@functools.cache
def _ids(path: Path | None, vocabulary: int) -> Tensor:
    characters = path.read_text() if path is not None else _sources()
    if vocabulary <= CHARACTERS:
        parts = list(characters[:READ])
    else:
        parts = re.findall(r"\w+|\s+|[^\w\s]", characters[: 2 * READ])
    known = {part: at for at, (part, _) in enumerate(Counter(parts).most_common(vocabulary - 1))}
    return torch.tensor([known.get(part, vocabulary - 1) for part in parts])


def _sources() -> str:
    modules = sorted(Path(os.__file__).parent.glob("*.py"))
    return "\n".join(module.read_text(errors="replace") for module in modules)


@functools.cache
def enlarged(path: Path | None) -> Images:
    """The images of a file as they are, or scikit-learn's digits, each pixel 4 by 4."""
    found = images(path)
    if path is not None:
        return found
    x, test = (
        each.repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3) for each in (found.x, found.test_x)
    )
    return Images(x, found.y, test, found.test_y)
