"""Gradients of parameters are computed while a rank would wait."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from dni_fx.schedules.actions import Kind
from dni_fx.schedules.base import Flushed
from dni_fx.schedules.line import Line


@dataclass(frozen=True)
class ZeroBubble(Flushed):
    """`1f1b` with backward passes in two: gradients of parameters, for which nobody waits, fill the gaps.

    This is the variant that holds no more activations than the first rank of `1f1b` does, and ends each step.

    Source: Qi et al. 2023, Zero Bubble Pipeline Parallelism, ZB-H1, https://arxiv.org/abs/2401.10241.
    """

    name = "zero-bubble"

    @override
    def fill_step(self, line: Line, first: int) -> None:
        ahead = min(line.layout.ranks - line.rank - 1, self.micro)
        behind = line.rank  # so all ranks hold what the first of 1f1b does
        for batch in range(first, first + ahead):
            line.forward(batch)
        for at in range(self.micro):
            if at + ahead < self.micro:
                line.forward(first + at + ahead)
            line.backward(first + at, Kind.INPUT_GRADIENT)
            if at >= behind:
                line.weights(first + at - behind)
        for at in range(max(self.micro - behind, 0), self.micro):
            line.weights(first + at)
