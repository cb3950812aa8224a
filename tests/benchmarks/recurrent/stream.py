"""Episodes side by side without end, in chunks of a few steps; and when they become harder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.recurrent.tasks import CHANNELS, GAP, UNSCORED, Level, Task, episodes

ENOUGH = 0.15
"""Bits of loss for each bit asked for, below which a level is modelled."""
JUDGED = 1024
"""So many bits asked for, at least, decide on it."""
RESTING = 0.25
"""The part of all episodes with one more chunk of nothing, or all samples would fall into step."""


@dataclass(frozen=True)
class Chunk:
    """A few steps of every sample: `x` is `(batch, time, CHANNELS)`, `y` `(batch, time)`.

    `ends` marks the samples whose episode ends with this chunk, `present` those whose level is that of the
    curriculum.
    """

    x: Tensor
    y: Tensor
    ends: Tensor
    present: Tensor

    @property
    def scored(self) -> Tensor:
        """Where a bit is asked for."""
        return self.y != UNSCORED


class Stream:
    """As many episodes as a batch has samples, each followed by another one.

    They begin at different times, so that every chunk has something of every phase. An episode takes a whole
    number of chunks, and now and then one more. Without `time` an episode is one chunk.
    """

    def __init__(self, batch: int, time: int, seed: int, level: Level) -> None:
        self.time = time
        self.draw = np.random.default_rng(seed)
        self.level = [level] * batch
        steps = level.padded(time or level.length)
        self.x = np.zeros((batch, steps, CHANNELS), np.float32)
        self.y = np.zeros((batch, steps), np.int64)
        self.lengths = np.zeros(batch, np.int64)
        self.at = np.zeros(batch, np.int64)
        self._begin(np.arange(batch), level)
        if time:
            self.at = self.draw.integers(steps // time, size=batch) * time

    def chunk(self, level: Level) -> Chunk:
        """The next steps; episodes that begin with them are of this level."""
        if len(over := np.flatnonzero(self.at >= self.lengths)):
            self._begin(over, level)
        steps = self.time or int(self.lengths[0])
        places = self.at[:, None] + np.arange(steps)
        rows = np.arange(len(self.at))[:, None]
        x, y = self.x[rows, places], self.y[rows, places]
        self.at = self.at + steps
        present = np.array([each == level for each in self.level])
        ends = self.at >= self.lengths
        return Chunk(*(torch.from_numpy(each) for each in (x, y, ends, present)))

    def _begin(self, samples: np.ndarray, level: Level) -> None:
        x, y = episodes(level, len(samples), self.time or level.length, self.draw)
        rest = np.zeros((len(samples), self.time, CHANNELS), np.float32)
        rest[..., GAP] = 1
        x = np.concatenate([x, rest], 1)
        y = np.pad(y, ((0, 0), (0, self.time)), constant_values=UNSCORED)
        steps = x.shape[1]
        if (more := steps - self.x.shape[1]) > 0:
            self.x = np.pad(self.x, ((0, 0), (0, more), (0, 0)))
            self.y = np.pad(self.y, ((0, 0), (0, more)), constant_values=UNSCORED)
        self.x[samples, :steps], self.y[samples, :steps] = x, y
        rests = self.draw.random(len(samples)) < RESTING
        self.lengths[samples], self.at[samples] = steps - self.time * ~rests, 0
        for sample in samples:
            self.level[sample] = level


class Curriculum:
    """The level of the episodes that begin, raised each time the present one is modelled."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.level = Level()
        self.passed: list[tuple[int, Level]] = []
        self.loss = float("nan")
        self._total, self._count = 0.0, 0

    @property
    def longest(self) -> int:
        """What the task counts of the last level that was modelled; 0 if there is none."""
        return self.task.counted(self.passed[-1][1]) if self.passed else 0

    def note(self, update: int, total: float, count: int) -> None:
        """Take in the loss of some bits of the present level, in bits: their sum, and how many they are."""
        self._total, self._count = self._total + total, self._count + count
        if self._count < JUDGED:
            return
        self.loss = self._total / self._count
        self._total, self._count = 0.0, 0
        if self.loss < ENOUGH:
            self.passed.append((update, self.level))
            self.level = self.task.after(self.level)
