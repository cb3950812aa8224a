"""What a runtime is."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dni_fx.decoupled import Decoupled, dnis
from dni_fx.errors import StageError
from dni_fx.runtimes.findings import Findings
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

    @property
    def leads(self) -> bool:
        """Whether this process reads the data, reports and writes files: of several, one does."""
        return True

    @property
    def is_one_of_several(self) -> bool:
        """Whether other processes train other parts of the model."""
        return False

    @property
    def has_loss(self) -> bool:
        """Whether this process computes the loss, and has the outputs."""
        return True

    def ask(self, signal: int) -> None:
        """Ask the process that leads to end the run, since this one was asked to by a signal."""
        raise StageError(f"signal {signal} asks to end a run that nobody leads.")

    def asked(self) -> int | None:
        """The signal by which another process was asked to end the run."""
        return None

    def settle(self) -> None:
        """Wait until everything that was begun is done, and has been learned from."""
        return

    def gather(self, alone: bool = False) -> None:
        """Have the whole trained model in every process, or `alone` in the one that leads: all do it at once.

        Until the next step: in a step each has the stages that it trains.
        """
        return

    @property
    def is_leading(self) -> bool:
        """Whether other processes do now what this one tells them."""
        return False

    def flush(self) -> None:
        """Step all optimizers now if gradients wait."""
        self.updates.flush()

    def end_epoch(self, loss: float) -> None:
        """Move the schedulers that move after epochs, or when this loss falls no more."""
        self.updates.end_epoch(loss)

    def pieces(self, alone: bool = False) -> Iterator[dict[str, Any]]:
        """The state of the model and its optimizers in parts, by process: all do it at once.

        With `alone`, they come to the process that leads, one after another; others have none.
        """
        yield {"model": dict(self.cut.state_dict()), "optimizers": self.updates.optimizers_state()}

    def renew(self) -> None:
        """Have memory for the whole model, the state of which is to be replaced: all do it at once."""
        return

    def unmoved(self) -> AbstractContextManager[object]:
        """Inside, callbacks are called, which change nothing that other processes would have to know.

        Raises:
            StageError: they do.
        """
        return nullcontext()

    def leading(self) -> AbstractContextManager[object]:
        """Inside, other processes do what this one tells them."""
        return nullcontext()

    def fail(self, error: BaseException) -> None:
        """Tell other processes that this one cannot go on, if there are any."""
        return

    def lead(self, order: str, details: object = None) -> None:
        """Tell other processes what to do, if there are any, and they are led."""
        return

    def orders(self) -> Iterator[tuple[str, Any]]:
        """What the process that leads tells this one to do.

        Raises:
            StageError: that process is lost.
        """
        return iter(())

    def tell(self, figures: Findings) -> Iterator[Findings]:
        """Take in the figures of a step; returns those of the steps of which all is known, in their order."""
        return iter((figures,))

    def rest(self) -> Iterator[Findings]:
        """The figures of the steps of which not all was known before."""
        return iter(())

    def share(self, parts: Any) -> Any:
        """The samples of a batch that this process trains on."""
        return parts

    @abc.abstractmethod
    def step(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        """Train on one batch: every stage and every synthesizer gets its gradients, and is updated if due."""


@dataclass(frozen=True)
class Runtime(Named):
    """How the stages of a cut model are run and updated."""

    @property
    def keeps_like(self) -> str:
        """The name of the runtime that can go on with a run of this one, and the other way round."""
        return self.name

    @abc.abstractmethod
    def start(self, cut: Decoupled, recipe: Recipe) -> Worker:
        """A worker for this model.

        Raises:
            StageError: the model cannot be trained by this runtime as it is cut.
        """
