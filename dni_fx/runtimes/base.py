"""What a runtime is."""

from __future__ import annotations

import abc
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dni_fx.decoupled import Decoupled, dnis
from dni_fx.runtimes.recipe import Recipe
from dni_fx.runtimes.updates import Updates
from passes import Named
from passes.boundary import CONTAINER


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
        self.prepare()

    @abc.abstractmethod
    def prepare(self) -> None:
        """Make optimizers for what has none yet, such as a new layer, as far as is known before a batch."""

    def own_learners(self) -> None:
        """Make an optimizer for each synthesizer that has none of its own; they are there after a batch."""
        for name, dni in dnis(self.cut).items():
            if dni.optimizer is None:
                named = dni.learner.named_parameters()
                mine = {f"{CONTAINER}.{name}.learner.{key}": parameter for key, parameter in named}
                self.updates.own(f"{CONTAINER}.{name}", mine)

    def across(self) -> AbstractContextManager[object]:
        """Inside, what is computed may meet tensors of all devices that the model is on."""
        return nullcontext()

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
