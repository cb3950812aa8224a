"""All forward passes of a step, then all backward passes."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from dni_fx.schedules.base import Flushed
from dni_fx.schedules.line import Line


@dataclass(frozen=True)
class GPipe(Flushed):
    """All forward passes of a step, then all backward passes; holds the activations of all micro-batches.

    Source: Huang et al. 2019, GPipe, https://arxiv.org/abs/1811.06965.
    """

    name = "gpipe"

    @override
    def fill_step(self, line: Line, first: int) -> None:
        for batch in range(first, first + self.micro):
            line.forward(batch)
        for batch in range(first, first + self.micro):
            line.backward(batch)
