"""No gradient at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from dni_fx.synthesizers.base import Guess, Learner, Synthesizer
from passes import BoundarySpec


@dataclass(frozen=True)
class Zero(Synthesizer):
    """Guesses that every gradient is 0, so the stages above a cut learn nothing through it.

    The baseline that any other synthesizer has to beat, and the stand-in where none can be built.
    """

    name = "zero"

    @override
    def build(self, spec: BoundarySpec) -> Learner:
        return Zeros()


class Zeros(Learner):
    """Has no parameters and returns zeros, for any number of values of any shape."""

    silent = True
    self_taught = True

    @override
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        return Guess(tuple(torch.zeros_like(value) for value in values))
