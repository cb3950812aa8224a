"""No stage waits for gradients."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from dni_fx.errors import ScheduleError
from dni_fx.schedules.actions import Kind
from dni_fx.schedules.base import Schedule
from dni_fx.schedules.line import Line


@dataclass(frozen=True)
class Dni(Schedule):
    """No stage waits for gradients: each is updated at once by a guess, and the true gradient teaches later.

    Every batch is a step. A rank is at most `lag` batches ahead of the true gradients: before it goes on it
    has those of the batch `lag` batches ago, or waits for them, so what is held is bounded. A runtime may
    take them earlier.

    Source: Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343.
    """

    name = "dni"
    lag: int = 4

    def __post_init__(self) -> None:
        if self.lag < 0:
            raise ScheduleError(f"dni cannot lag by {self.lag} batches; it is 0 or more.")

    @property
    @override
    def batches(self) -> int:
        return 1

    @property
    @override
    def settling(self) -> int:
        return 2 * (self.lag + 1)

    @override
    def fill(self, line: Line, steps: int) -> None:
        for batch in range(steps):
            for stage in line.own:
                line.forward_of(stage, batch)
                learns = line.layout.learns(stage)
                line.backward_of(stage, batch, Kind.SYNTHETIC_BACKWARD if learns else Kind.BACKWARD)
                line.step_of(stage, batch)
            line.regress(batch, local=True)
            if batch >= self.lag:
                line.regress(batch - self.lag, local=False)
        for batch in range(max(steps - self.lag, 0), steps):
            line.regress(batch, local=False)
