"""What a synthesizer is."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from passes import BoundarySpec, Named


class Guess(NamedTuple):
    """What a learner returns: a gradient per value and, if it has one, an objective of its own.

    `gradients` are each of its value's shape: per-sample gradients in units of the boundary's running root
    mean square, or the gradients of a mean loss as they are if the guess is `natural`. Those that hang on
    parameters of the learner are regressed on the true ones. `objective` is a scalar that the learner
    minimises besides. In its
    place, `learned` holds the gradients that such an objective already gave to each parameter, so that
    nothing of the objective needs to be kept. `loss` is what the learner thinks the loss of the step is,
    and is regressed on it.
    """

    gradients: tuple[Tensor, ...]
    objective: Tensor | None = None
    natural: bool = False
    learned: Sequence[Tensor | None] | None = None
    loss: Tensor | None = None


class Learner(nn.Module, abc.ABC):
    """The module that a synthesizer builds for one boundary.

    It draws no random numbers in forward and holds no batch norm, so that a cut never changes
    the model's random stream and never fails at batch 1 where the model runs. One that is `silent` guesses
    nothing but zeros, so that nobody need compute with them. One that is `self_taught` learns nothing from
    the true gradient, which is then asked for now and then only. `pace` multiplies the learning rate that
    the interface has for it.
    """

    silent: bool = False
    self_taught: bool = False
    pace: float = 1.0

    def needs_truth(self, context: Tensor | None) -> bool:
        """Whether it learns from the true gradient where this context is there."""
        return not self.self_taught

    @abc.abstractmethod
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        """Guess the gradient of each detached value, `(batch, *features)`.

        `context` is what the user passed as `dni_context`: integer labels `(batch,)`, or `(batch, time)`
        for sequences, or floats `(batch, classes)`; None when there is none.
        """


class Remembering(Learner):
    """A learner that keeps something of the true gradients themselves, in buffers."""

    @abc.abstractmethod
    def remember(self, targets: tuple[Tensor, ...], context: Tensor | None) -> None:
        """Hear of the true gradients, in units of their root mean square, and of their context."""


@dataclass(frozen=True)
class Synthesizer(Named):
    """How to guess a gradient from the activation it belongs to.

    The dataclass is the choice; the module that `build` returns is the learner. It is built from one
    `BoundarySpec`, never from a graph. `exact` marks the one that passes the true gradient instead. `needs`
    is what it cannot guess without: a "context", or the "loss", which only a runtime can tell.
    """

    exact: ClassVar[bool] = False
    needs: ClassVar[str] = ""

    @abc.abstractmethod
    def build(self, spec: BoundarySpec) -> Learner:
        """A fresh learner for one boundary, on the CPU, its last layer at zero.

        Raises:
            SynthesizerError: a value of this boundary has a shape that it cannot handle.
        """
