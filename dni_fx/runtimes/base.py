"""What a runtime is."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from dni_fx.decoupled import Decoupled
from passes import Named

Loss = Callable[[Any, Any], Tensor]
"""The model's outputs and the targets to a scalar."""

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Makes an optimizer for some of the parameters: all of them, or those of one stage."""


@dataclass(frozen=True)
class Outcome:
    """The loss of one step, detached, and the outputs that it was computed from."""

    loss: Tensor
    outputs: Any


class Worker(abc.ABC):
    """A runtime at work on one model; owns the optimizers."""

    optimizers: list[Optimizer]

    @abc.abstractmethod
    def step(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        """Train on one batch: every stage and every synthesizer is updated once."""


@dataclass(frozen=True)
class Runtime(Named):
    """How the stages of a cut model are run and updated."""

    @abc.abstractmethod
    def start(self, cut: Decoupled, loss: Loss, optimizer: OptimizerFactory) -> Worker:
        """A worker for this model, its optimizers made.

        Raises:
            StageError: the model cannot be trained by this runtime as it is cut.
        """
