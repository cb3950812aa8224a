"""What a runtime is."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dni_fx.decoupled import Decoupled
from dni_fx.runtimes.updates import Recipe, Updates
from passes import Named


@dataclass(frozen=True)
class Outcome:
    """The loss of one step, detached, and the outputs that it was computed from."""

    loss: Tensor
    outputs: Any


class Worker(abc.ABC):
    """A runtime at work on one model; `updates` owns the optimizers."""

    def __init__(self, cut: Decoupled, recipe: Recipe) -> None:
        self.cut = cut
        self.recipe = recipe
        self.updates = Updates(cut, recipe)

    @abc.abstractmethod
    def step(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        """Train on one batch: every stage and every synthesizer gets its gradients, and is updated if due."""


@dataclass(frozen=True)
class Runtime(Named):
    """How the stages of a cut model are run and updated."""

    @abc.abstractmethod
    def start(self, cut: Decoupled, recipe: Recipe) -> Worker:
        """A worker for this model.

        Raises:
            StageError: the model cannot be trained by this runtime as it is cut.
        """
