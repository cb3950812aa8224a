"""As soon as a backward pass can run, it does."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from dni_fx.schedules.base import Flushed
from dni_fx.schedules.line import Line


@dataclass(frozen=True)
class OneForwardOneBackward(Flushed):
    """One forward and one backward pass in turns; holds the activations of as many batches as ranks follow.

    It takes as long as `gpipe`.

    Source: Narayanan et al. 2021, PipeDream-Flush, https://arxiv.org/abs/2006.09503.
    """

    name = "1f1b"

    @override
    def fill_step(self, line: Line, first: int) -> None:
        ahead = min(line.layout.ranks - line.rank - 1, self.micro)
        for batch in range(first, first + ahead):
            line.forward(batch)
        for at in range(self.micro):
            if at + ahead < self.micro:
                line.forward(first + at + ahead)
            line.backward(first + at)
