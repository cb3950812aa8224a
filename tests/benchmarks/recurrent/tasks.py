"""Copy and Repeat Copy: what an episode shows, and what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

ZERO, ONE, GO, GAP = range(4)
"""A bit of either kind; the end of the bits; nothing, while the net speaks or waits."""
CHANNELS = 5
"""One for each of these symbols, and one that tells at GO how often the bits are to be said."""
UNSCORED = -1
MANY = 10
"""So many repeats are told as 1."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Level:
    """How hard an episode is: so many bits, to be said so many times."""

    bits: int = 1
    repeats: int = 1

    @property
    def length(self) -> int:
        """Steps from the first bit shown to the last one asked for."""
        return self.bits + 1 + self.bits * self.repeats

    def padded(self, time: int) -> int:
        """Steps of an episode that ends together with a chunk of this length."""
        return -(-self.length // time) * time


def episodes(level: Level, count: int, time: int, draw: np.random.Generator) -> tuple[Floats, Ints]:
    """Inputs `(count, steps, CHANNELS)` and the bits that are asked for `(count, steps)`.

    Bits are shown one a step, then GO, and from the next step on they are asked for. Steps after the last one
    fill a whole number of chunks; they show nothing, and like all other steps ask for nothing (UNSCORED).
    """
    n, steps = level.bits, level.padded(time)
    bits = draw.integers(2, size=(count, n))
    symbols = np.full((count, steps), GAP)
    symbols[:, :n], symbols[:, n] = bits, GO
    x = np.zeros((count, steps, CHANNELS), np.float32)
    np.put_along_axis(x, symbols[..., None], 1.0, 2)
    x[:, n, -1] = level.repeats / MANY
    y = np.full((count, steps), UNSCORED)
    y[:, n + 1 : level.length] = np.tile(bits, level.repeats)
    return x, y


def longer(level: Level) -> Level:
    """One bit more."""
    return replace(level, bits=level.bits + 1)


def longer_or_oftener(level: Level) -> Level:
    """One bit more and one repeat more, in turn."""
    if level.bits > level.repeats:
        return replace(level, repeats=level.repeats + 1)
    return longer(level)


@dataclass(frozen=True)
class Task:
    """What comes after a level, and what is counted of it."""

    name: str
    after: Callable[[Level], Level]
    counted: Callable[[Level], int]
    unit: str


TASKS = {
    "copy": Task("copy", longer, lambda level: level.bits, "bits of a sequence"),
    "repeat-copy": Task(
        "repeat-copy", longer_or_oftener, lambda level: level.length, "steps: bits, GO, and bits repeated"
    ),
}
