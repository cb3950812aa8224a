"""What is to be run: a net on data, cut in one way, from one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from tests.benchmarks.learning.data import Data
from tests.benchmarks.learning.rows import Row


@dataclass(frozen=True)
class Task:
    """Everything about a run but how the cuts are filled and its seed.

    `setting` is what the tables call it. The learning rate rises for `warmup` steps in a straight line,
    `clip` bounds the norm of all gradients, and 0 is none of either. The net is judged before the first
    step, and at `points` places spread evenly over the steps. With `decay` the rate falls to a hundredth of
    `lr` over the steps, in a straight line, and stays there for whoever goes on. `halfway` is called with
    the net after half of the steps. In `diagnosed` steps more, which count for nothing else, it is measured
    how well the synthesizers guess.
    """

    setting: str
    data: Callable[[], Data]
    net: Callable[[Any], nn.Module]
    plan: str
    batch: int
    steps: int
    points: int = 20
    optimizer: str = "Adam"
    lr: float = 1e-3
    warmup: int = 0
    decay: bool = False
    clip: float = 0.0
    bf16: bool = False
    channels_last: bool = False
    diagnosed: int = 20
    halfway: Callable[[nn.Module], object] | None = None

    def rate(self, done: int) -> float:
        """The learning rate after so many steps."""
        rising = min((done + 1) / self.warmup, 1.0) if self.warmup else 1.0
        falling = max(1 - done / max(self.steps, 1), 0.01) if self.decay else 1.0
        return self.lr * rising * falling


@dataclass(frozen=True)
class Job:
    """One run."""

    task: Task
    row: Row
    seed: int

    @property
    def key(self) -> str:
        """All that decides what the run finds, as text. Backprop is the same whatever the plan."""
        skipped = {"setting"} if self.row.synthesizer else {"setting", "plan"}
        names = (each.name for each in fields(self.task) if each.name not in skipped)
        parts = (f"{name}={_text(getattr(self.task, name))}" for name in names)
        return f"{self.row} seed={self.seed} {' '.join(parts)}"

    def __str__(self) -> str:
        return f"{self.task.setting}, {self.row.name}, seed {self.seed}"


@dataclass(frozen=True)
class Group:
    """Runs that are compared. The others train for as long as the first does, or for `seconds`, at least."""

    first: Job | None
    others: tuple[Job, ...]
    seconds: float = 0.0


def _text(value: object) -> str:
    if isinstance(value, partial):
        options = (f"{name}={_text(each)}" for name, each in value.keywords.items())
        return f"{value.func.__name__}({', '.join([*map(_text, value.args), *options])})"
    if callable(value):
        return getattr(value, "__name__", str(value))
    return value.name if isinstance(value, Path) else str(value)
