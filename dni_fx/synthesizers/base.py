"""What a synthesizer is."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from passes import BoundarySpec, Named


class Guess(NamedTuple):
    """What a learner returns: a gradient per value and, if it has one, an objective of its own.

    `gradients` are per-sample gradients in units of the boundary's running root mean square, each of
    its value's shape. `objective` is a scalar that the learner minimises beside the regression.
    """

    gradients: tuple[Tensor, ...]
    objective: Tensor | None = None


class Learner(nn.Module, abc.ABC):
    """The module that a synthesizer builds for one boundary.

    It draws no random numbers in forward and holds no batch norm, so that a cut never changes
    the model's random stream and never fails at batch 1 where the model runs.
    """

    @abc.abstractmethod
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        """Guess the gradient of each detached value, `(batch, *features)`.

        `context` is what the user passed as `dni_context`: integer labels `(batch,)`, or `(batch, time)`
        for sequences, or floats `(batch, classes)`; None when there is none.
        """


@dataclass(frozen=True)
class Synthesizer(Named):
    """How to guess a gradient from the activation it belongs to.

    The dataclass is the choice; the module that `build` returns is the learner. It is built from one
    `BoundarySpec`, never from a graph. `exact` marks the one that passes the true gradient instead.
    """

    exact: ClassVar[bool] = False

    @abc.abstractmethod
    def build(self, spec: BoundarySpec) -> Learner:
        """A fresh learner for one boundary, on the CPU, its last layer at zero.

        Raises:
            SynthesizerError: a value of this boundary has a shape that it cannot handle.
        """
