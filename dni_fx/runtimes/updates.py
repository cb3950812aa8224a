"""The optimizers of a run, whatever the runtime: gradients are scaled, added up, clipped, and taken."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Generator, Iterable, Mapping, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from dni_fx.decoupled import Decoupled
from dni_fx.errors import StageError
from dni_fx.runtimes.moved import Moved, Undivided
from dni_fx.runtimes.owned import Owned
from dni_fx.runtimes.recipe import Recipe
from dni_fx.warning import warn


class Updates:
    """The optimizers of one model by name, and the batches whose gradients wait for a step of theirs.

    State that is loaded before an optimizer is there waits for it.
    """

    def __init__(self, cut: Decoupled, recipe: Recipe) -> None:
        self.cut = cut
        self.recipe = recipe
        self.owned: dict[str, Owned] = {}
        self.moved: Moved = Undivided()
        self._moved: set[nn.Parameter] = set()
        self.batches = 0
        self.scaler: GradScaler | None = None
        if recipe.autocast is torch.float16:
            self.scaler = GradScaler(self._device)
            self.scaler.scale(torch.zeros((), device=self._device))  # before that it has no scale to tell
        self._was_scaled = False
        self._waiting: dict[str, Any] = {}
        self._told: set[str] = set()

    def own(self, name: str, parameters: Mapping[str, nn.Parameter]) -> None:
        """Make an optimizer for what has none yet of these parameters, and its scheduler.

        It has this name, or one that begins so if there is one of this name already.

        Raises:
            StageError: its steps ask for more than gradients, or it is none.
        """
        fresh = {key: parameter for key, parameter in parameters.items() if parameter not in self._moved}
        if not fresh:
            return
        while name in self.owned:
            name = f"{name}, later"
        optimizer = _made(self.recipe, list(fresh.values()))
        self.owned[name] = Owned.of(optimizer, fresh, self.recipe.scheduler, self.moved)
        self._moved |= set(fresh.values())
        if self._waiting and name not in self._waiting:
            known = ", ".join(self._waiting)
            raise StageError(f"the state has no optimizer of {name}, but of {known}: is it of another plan?")
        if self._waiting:
            self._load(name, self._waiting.pop(name))

    def restore(
        self,
        parameters: Mapping[str, nn.Parameter],
        own: Set[nn.Parameter] | None = None,
        others: Set[nn.Parameter] = frozenset(),
    ) -> None:
        """Make the optimizers whose state waits, for the parameters that they had; of `own` ones, if given.

        The state of those for parameters that `others` move is forgotten.

        Raises:
            StageError: the model has them no more.
        """
        for name, state in list(self._waiting.items()):
            there = {parameters[key] for key in state["parameters"] if key in parameters}
            if own is not None and not there <= own:
                if there <= others:
                    del self._waiting[name]
                continue
            if missing := [key for key in state["parameters"] if key not in parameters]:
                raise StageError(
                    f"the state is of a model that has {', '.join(missing[:5])}, and this has not."
                )
            self.own(name, {key: parameters[key] for key in state["parameters"]})

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizers that there are, by name."""
        return {name: owned.optimizer for name, owned in self.owned.items()}

    @contextmanager
    def batch(self) -> Generator[None]:
        """Inside, one batch is trained on; gradients of batches before it may be waiting."""
        before = self.cut.gradient_scale
        self.cut.gradient_scale = before * self._factor
        self.batches += 1
        try:
            yield
        except BaseException:
            self.batches -= 1
            raise
        finally:
            self.cut.gradient_scale = before
        if self.is_due:
            self._close()

    @property
    def is_due(self) -> bool:
        """Whether the gradients of all batches that belong together are there, or will be with this one's."""
        return self.batches >= self.recipe.accumulate

    def backward(self, losses: Iterable[Tensor], upward: Iterable[Tensor | None]) -> None:
        """Run backward from the loss, the first of these tensors, and from others with their gradients.

        Raises:
            StageError: the loss does not hang on anything that learns.
        """
        (loss, *sent), (_, *known) = losses, upward
        if not loss.requires_grad:
            raise StageError(
                "no gradient runs from the loss to the model. Compute it from the outputs, and without "
                "detach() and no_grad()."
            )
        scaled = loss if self._factor == 1 else loss * self._factor
        torch.autograd.backward([scaled, *sent], [None, *known])

    def step(self, name: str) -> None:
        """Step one optimizer, if it is time, and let go of the gradients."""
        if self.is_due and name in self.owned:
            self._take(self.owned[name])

    def catch_up(self, name: str) -> None:
        """Step one optimizer, if it is time, of which the gradients of earlier batches or readers wait."""
        if name in self.owned and self.owned[name].has_gradients:
            self.step(name)

    def follow(self) -> None:
        """Put what optimizers keep of their parameters on the devices where those are now."""
        for owned in self.owned.values():
            owned.optimizer.load_state_dict(owned.optimizer.state_dict())

    def flush(self) -> None:
        """Step all optimizers now if gradients wait; they are averaged over the batches that there were."""
        if not self.batches:
            return
        missing = self.recipe.accumulate / self.batches
        for owned in self.owned.values():
            for parameter in owned.parameters.values() if missing != 1 else ():
                if parameter.grad is not None:
                    parameter.grad.mul_(missing)
            self._take(owned)
        self._close()

    def forget(self) -> None:
        """Let go of gradients that wait: of a run that was broken off."""
        self.batches = 0
        for parameter in self.cut.parameters():  # of several processes, another one may be to move it
            parameter.grad = None

    def end_epoch(self, loss: float) -> None:
        """Move the schedulers that move after epochs, or when this loss falls no more.

        Those whose state waits, since there has been no batch yet, move when they are there.
        """
        for owned in self.owned.values():
            self._end_epoch(owned, loss)
        self._waiting = {
            name: {**state, "missed": [*state.get("missed", ()), loss]}
            for name, state in self._waiting.items()
        }

    def autocast(self) -> AbstractContextManager[Any]:
        """Inside, matrix products are computed in the type of the recipe."""
        if self.recipe.autocast is None:
            return nullcontext()
        return torch.autocast(self._device, self.recipe.autocast)

    def optimizers_state(self) -> dict[str, Any]:
        """The state of optimizers and schedulers by name. Gradients that wait are not in it."""
        return self._waiting | {name: owned.state_dict() for name, owned in self.owned.items()}

    def state_dict(self) -> dict[str, Any]:
        """All but the state of optimizers: that of the scaler."""
        return {"scaler": None if self.scaler is None else self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned, with the `optimizers` of `optimizers_state`.

        Raises:
            StageError: it is that of another model, or of another way to train.
        """
        if (self.scaler is None) != (state["scaler"] is None):
            raise StageError("the state is of a run with another autocast type: one scales its loss.")
        waiting = dict(state["optimizers"])
        for name in self.owned:
            if name not in waiting:
                known = ", ".join(waiting)
                raise StageError(f"the state has no optimizer of {name}, but of {known}: of another plan?")
            self._load(name, waiting.pop(name))
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self._waiting = waiting
        self.forget()

    def _load(self, name: str, state: Mapping[str, Any]) -> None:
        """Go back to the state of one optimizer; what is other than asked for is told once."""
        kept = self.owned[name].load_state_dict(name, state)
        if kept and kept not in self._told:
            self._told.add(kept)
            warn(f"the run goes on with the options of the checkpoint: {kept}. Begin a new one for others.")
        for loss in state.get("missed", ()):
            self._end_epoch(self.owned[name], loss)

    def _end_epoch(self, owned: Owned, loss: float) -> None:
        with warnings.catch_warnings():
            # The steps of the epoch may all have been before the run was resumed.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            if isinstance(owned.scheduler, ReduceLROnPlateau):
                owned.scheduler.step(loss)
            elif owned.scheduler is not None and self._waits_for_epochs(owned.scheduler):
                owned.scheduler.step()

    @property
    def _factor(self) -> float:
        scale = 1.0 if self.scaler is None else self.scaler.get_scale()
        return scale / self.recipe.accumulate

    @property
    def _device(self) -> str:
        return next((p.device.type for p in self.cut.parameters()), "cpu")

    def _take(self, owned: Owned) -> None:
        optimizer, has_gradients = owned.optimizer, owned.has_gradients
        if self.scaler is not None and has_gradients:
            self.scaler.unscale_(optimizer)
            self._was_scaled = True
        if self.recipe.clip:
            self.moved.clip(owned.parameters.values(), self.recipe.clip)
        skips: list[Any] = []
        # A scaler may leave a step out, which is none for the scheduler either. A fused optimizer it calls
        # all the same, and tells it while it does that there is nothing to do.
        hook = optimizer.register_step_post_hook(lambda *of: skips.append(getattr(optimizer, "found_inf", 0)))
        if self.scaler is None:
            self.moved.step(optimizer)
        elif has_gradients:
            self.scaler.step(optimizer)
        hook.remove()
        owned.loaded = None
        optimizer.zero_grad()
        if owned.scheduler is None or self._waits_for_epochs(owned.scheduler):
            return
        if skips and not bool(skips[0]):  # which waits for the device
            owned.scheduler.step()

    def _waits_for_epochs(self, scheduler: LRScheduler) -> bool:
        return self.recipe.per_epoch or isinstance(scheduler, ReduceLROnPlateau)

    def _close(self) -> None:
        self.batches = 0
        if self.scaler is not None and self._was_scaled:
            self.scaler.update()  # which refuses if there was nothing to scale back
        self._was_scaled = False


def _made(recipe: Recipe, parameters: list[nn.Parameter]) -> Optimizer:
    if isinstance(recipe.optimizer, Optimizer):
        raise StageError(
            "optimizer= makes an optimizer for some of the parameters, such as "
            "functools.partial(torch.optim.SGD, lr=0.1), and is not one itself."
        )
    optimizer = recipe.optimizer(parameters)
    if not isinstance(cast("object", optimizer), Optimizer):
        raise StageError(f"optimizer= is to return an optimizer, and returned a {type(optimizer).__name__}.")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise StageError(
            f"{type(optimizer).__name__} computes the loss again in its steps, and a stage steps by one "
            "gradient. Choose another optimizer."
        )
    return optimizer
