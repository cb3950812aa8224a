"""How gradients become steps, whatever the runtime: scaled, added up, clipped, and taken."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from dni_fx.decoupled import Decoupled
from dni_fx.errors import StageError

Loss = Callable[[Any, Any], Tensor]
"""The model's outputs and the targets to a scalar."""

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Makes an optimizer for some of the parameters: all of them, or those of one stage."""

SchedulerFactory = Callable[[Optimizer], LRScheduler]
"""Makes what changes the learning rate of one optimizer."""


@dataclass(frozen=True)
class Recipe:
    """What to minimize, and how gradients become steps.

    Every optimizer has a scheduler of its own, which moves after each of its steps, or after each epoch with
    `per_epoch`. `clip` bounds the norm of the gradients of one optimizer; 0 is no bound. The gradients
    of `accumulate` batches are averaged before a step. `autocast` is the type that matrix products are
    computed in; with float16 the loss is scaled.
    """

    loss: Loss
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory | None = None
    per_epoch: bool = False
    clip: float = 0.0
    accumulate: int = 1
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise StageError(f"accumulate is 1 or more, not {self.accumulate}.")
        if not self.clip >= 0:
            raise StageError(f"clip is 0 or more, not {self.clip}.")


class Updates:
    """The optimizers of one model by name, and the batches whose gradients wait for a step of theirs.

    State that is loaded before an optimizer is there waits for it.
    """

    def __init__(self, cut: Decoupled, recipe: Recipe) -> None:
        self.cut = cut
        self.recipe = recipe
        self.optimizers: dict[str, Optimizer] = {}
        self.schedulers: dict[str, LRScheduler] = {}
        self.batches = 0
        self.scaler: GradScaler | None = None
        if recipe.autocast is torch.float16:
            self.scaler = GradScaler(self._device)
            self.scaler.scale(torch.zeros((), device=self._device))  # before that it has no scale to tell
        self._was_scaled = False
        self._waiting: dict[str, Any] = {}

    def own(self, name: str, parameters: Iterable[nn.Parameter]) -> None:
        """Make the optimizer of this name, for these parameters, and its scheduler."""
        optimizer = self.optimizers[name] = self.recipe.optimizer(parameters)
        if self.recipe.scheduler is not None:
            scheduler = self.schedulers[name] = self.recipe.scheduler(optimizer)
            if not (self.recipe.per_epoch or isinstance(scheduler, ReduceLROnPlateau)):
                # A scaler may leave a step out, which is none for the scheduler either.
                optimizer.register_step_post_hook(lambda *_: scheduler.step())
        if self._waiting:
            self._load(name)

    @contextmanager
    def batch(self) -> Generator[None]:
        """Inside, one batch is trained on; gradients of batches before it may be waiting."""
        before = self.cut.gradient_scale
        self.cut.gradient_scale = before * self._factor
        self.batches += 1
        try:
            yield
        finally:
            self.cut.gradient_scale = before
        if self.is_due:
            self._close()

    @property
    def is_due(self) -> bool:
        """Whether the gradients of all batches that belong together are there, or will be with this one's."""
        return self.batches >= self.recipe.accumulate

    def backward(self, losses: Iterable[Tensor], upward: Iterable[Tensor | None]) -> None:
        """Run backward from the loss, the first of these tensors, and from others with their gradients."""
        (loss, *sent), (_, *known) = losses, upward
        scaled = loss if self._factor == 1 else loss * self._factor
        torch.autograd.backward([scaled, *sent], [None, *known])

    def step(self, name: str) -> None:
        """Step one optimizer, if it is time and there is one, and let go of the gradients."""
        if self.is_due and name in self.optimizers:
            self._take(self.optimizers[name])

    def catch_up(self, name: str) -> None:
        """Step one optimizer, if it is time, of which the gradients of earlier batches or readers wait."""
        if name in self.optimizers and _has_gradients(self.optimizers[name]):
            self.step(name)

    def flush(self) -> None:
        """Step all optimizers now if gradients wait, though batches are missing that were to be added."""
        if self.batches:
            for optimizer in self.optimizers.values():
                self._take(optimizer)
            self._close()

    def end_epoch(self, loss: float) -> None:
        """Move the schedulers that move after epochs, or when this loss falls no more."""
        for scheduler in self.schedulers.values():
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(loss)
            elif self.recipe.per_epoch:
                scheduler.step()

    def autocast(self) -> AbstractContextManager[Any]:
        """Inside, matrix products are computed in the type of the recipe."""
        if self.recipe.autocast is None:
            return nullcontext()
        return torch.autocast(self._device, self.recipe.autocast)

    def state_dict(self) -> dict[str, Any]:
        """The state of optimizers, schedulers and scaler. Gradients that wait are not in it."""
        found = {
            name: {"optimizer": optimizer.state_dict(), "scheduler": self._schedule_of(name)}
            for name, optimizer in self.optimizers.items()
        }
        scaler = None if self.scaler is None else self.scaler.state_dict()
        return {"optimizers": self._waiting | found, "scaler": scaler}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned.

        Raises:
            StageError: it is that of another model, or of another way to train.
        """
        if (self.scaler is None) != (state["scaler"] is None):
            raise StageError("the state is of a run with another autocast type: one scales its loss.")
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self._waiting = dict(state["optimizers"])
        for name in self.optimizers:
            self._load(name)
        self.batches = 0

    @property
    def _factor(self) -> float:
        scale = 1.0 if self.scaler is None else self.scaler.get_scale()
        return scale / self.recipe.accumulate

    @property
    def _device(self) -> str:
        return next((p.device.type for p in self.cut.parameters()), "cpu")

    def _take(self, optimizer: Optimizer) -> None:
        if self.scaler is not None and _has_gradients(optimizer):
            self.scaler.unscale_(optimizer)
            self._was_scaled = True
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(_parameters(optimizer), self.recipe.clip)
        if self.scaler is None:
            optimizer.step()
        elif _has_gradients(optimizer):
            self.scaler.step(optimizer)
        optimizer.zero_grad()

    def _close(self) -> None:
        self.batches = 0
        if self.scaler is not None and self._was_scaled:
            self.scaler.update()  # which refuses if there was nothing to scale back
        self._was_scaled = False

    def _schedule_of(self, name: str) -> dict[str, Any] | None:
        return self.schedulers[name].state_dict() if name in self.schedulers else None

    def _load(self, name: str) -> None:
        if name not in self._waiting:
            known = ", ".join(self._waiting) or "nothing else"
            raise StageError(f"the state has no optimizer of {name}, but of {known}: is it of another plan?")
        state = self._waiting.pop(name)
        try:
            self.optimizers[name].load_state_dict(state["optimizer"])
        except (ValueError, KeyError) as error:
            raise StageError(f"the state of the optimizer of {name} is of another model: {error}") from error
        if (state["scheduler"] is None) != (name not in self.schedulers):
            raise StageError("the state is of a run with another scheduler.")
        if name in self.schedulers:
            self.schedulers[name].load_state_dict(state["scheduler"])


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _has_gradients(optimizer: Optimizer) -> bool:
    """Whether a step would do anything; a scaler refuses one that has nothing to check."""
    return any(parameter.grad is not None for parameter in _parameters(optimizer))
