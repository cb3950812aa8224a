"""What a schedule is."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import final

from dni_fx.errors import ScheduleError
from dni_fx.schedules.layout import Layout
from dni_fx.schedules.line import Line
from dni_fx.schedules.timetable import Timetable
from passes import Named


@dataclass(frozen=True)
class Schedule(Named):
    """In which order each rank works on its stages. Reads a layout, starts nothing, returns a timetable."""

    @property
    @abc.abstractmethod
    def batches(self) -> int:
        """How many (micro-)batches make a step."""

    @property
    @abc.abstractmethod
    def settling(self) -> int:
        """After how many steps each looks like the one that is so many before, as far as neighbors go."""

    @property
    @final
    def enough(self) -> int:
        """How many steps to simulate: to settle, as many again to look at, and one to count from."""
        return 2 * self.settling + 1

    @abc.abstractmethod
    def fill(self, line: Line, steps: int) -> None:
        """Write down what one rank does in so many steps."""

    @final
    def timetable(self, layout: Layout, steps: int = 1) -> Timetable:
        """What each rank does in so many steps. O(actions).

        Raises:
            ScheduleError: there is no step, or an option makes no sense.
        """
        if steps < 1:
            raise ScheduleError(f"cannot schedule {steps} steps; there is one or more.")
        lines = [Line(layout, rank) for rank in range(layout.ranks)]
        for line in lines:
            self.fill(line, steps)
        return Timetable(tuple(tuple(line.actions) for line in lines))


@dataclass(frozen=True)
class Flushed(Schedule):
    """A schedule that splits the batch of a step into `micro` parts, and ends a step before the next begins.

    The gradients of the parts are summed, and the weights are those of the step, as in plain backprop.
    """

    micro: int = 4

    def __post_init__(self) -> None:
        if self.micro < 1:
            raise ScheduleError(f"{self.name} cannot split a batch into {self.micro} micro-batches.")

    @property
    def batches(self) -> int:
        """How many micro-batches make a step."""
        return self.micro

    @property
    def settling(self) -> int:
        """The first step begins on all ranks at once; the next ones when the last is over."""
        return 1

    @abc.abstractmethod
    def fill_step(self, line: Line, first: int) -> None:
        """Write down what a rank does in the step whose first batch is `first`, the update left out."""

    @final
    def fill(self, line: Line, steps: int) -> None:
        """Write down what one rank does in so many steps."""
        for step in range(steps):
            self.fill_step(line, step * self.micro)
            line.step((step + 1) * self.micro - 1)
