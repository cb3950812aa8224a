"""One optimizer of a run with what it moves and its schedule, and the state of both."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dni_fx.errors import StageError
from dni_fx.runtimes.moved import Moved
from dni_fx.runtimes.recipe import SchedulerFactory

_SHOWN = (bool, int, float, str, tuple, list, type(None))


@dataclass
class Owned:
    """An optimizer, what it moves by names in the model, and what changes its learning rate.

    `options` is what both were made with, as text. A schedule changes some of that later. `loaded` is what
    its state was before it was divided, until it has moved.
    """

    optimizer: Optimizer
    parameters: Mapping[str, nn.Parameter]
    scheduler: LRScheduler | None
    options: dict[str, str]
    moved: Moved
    loaded: Mapping[int, Any] | None = None

    @staticmethod
    def of(
        optimizer: Optimizer,
        parameters: Mapping[str, nn.Parameter],
        schedule: SchedulerFactory | None,
        moved: Moved,
    ) -> Owned:
        """An optimizer that has just been made, and a schedule for it if there is to be one.

        Raises:
            StageError: none was made.
        """
        moved.put(optimizer)
        parts = {name: moved.of(each) for name, each in parameters.items()}
        options = options_of(optimizer)
        scheduler = None if schedule is None else schedule(optimizer)
        if schedule is not None and scheduler is None:
            raise StageError("scheduler= is to return what it has made for the optimizer, and returned None.")
        return Owned(optimizer, parts, scheduler, options | _options_of_schedule(scheduler), moved)

    @property
    def has_gradients(self) -> bool:
        """Whether a step would do anything; a scaler refuses one that has nothing to check."""
        return any(parameter.grad is not None for parameter in self.parameters.values())

    def state_dict(self) -> dict[str, Any]:
        """Its state, and what it is the state of."""
        whole = {} if self.loaded is None else {"state": self.loaded}
        return {
            "parameters": list(self.parameters),
            "kinds": self._kinds(),
            "options": dict(self.options),
            "optimizer": self.optimizer.state_dict() | whole,
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
        }

    def load_state_dict(self, name: str, state: Mapping[str, Any]) -> str:
        """Go back to a state that `state_dict` returned; says which options are now others than asked for.

        Raises:
            StageError: it is of other parameters, or of another kind of optimizer or scheduler.
        """
        if list(state["parameters"]) != list(self.parameters):
            raise StageError(f"the state of the optimizer of {name} is of other parameters: of another plan?")
        if state["kinds"] != self._kinds():
            was, now = (" with ".join(filter(None, kinds)) for kinds in (state["kinds"], self._kinds()))
            raise StageError(f"the state of {name} is of {was}, and it is now moved by {now}.")
        whole = state["optimizer"]
        self.optimizer.load_state_dict(dict(divided := self.moved.divided(self.optimizer, whole)))
        self.loaded = None if divided is whole else whole["state"]
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        asked, self.options = self.options, self.options | state.get("options", {})
        kept = {key: value for key, value in self.options.items() if value != asked.get(key, value)}
        return ", ".join(f"{key}={value} (not {asked[key]})" for key, value in kept.items())

    def _kinds(self) -> list[str]:
        return [type(each).__name__ if each is not None else "" for each in (self.optimizer, self.scheduler)]


def options_of(optimizer: Optimizer) -> dict[str, str]:
    """The options of an optimizer as texts, of every group of parameters."""
    found: dict[str, str] = {}
    for at, group in enumerate(optimizer.param_groups):
        where = f" of group {at}" if at else ""
        found |= {f"{key}{where}": each for key, each in shown(group).items() if key != "params"}
    return found


def _options_of_schedule(scheduler: LRScheduler | None) -> dict[str, str]:
    """What a schedule was made with, as far as it keeps that under the same name."""
    if scheduler is None:
        return {}
    asked = inspect.signature(type(scheduler)).parameters.keys() - {"last_epoch"}
    return shown({key: value for key, value in scheduler.state_dict().items() if key in asked})


def shown(options: Mapping[str, Any]) -> dict[str, str]:
    """Those of the values whose text says what they are."""
    plain = {
        key: value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        for key, value in options.items()
    }
    return {key: str(value) for key, value in plain.items() if isinstance(value, _SHOWN)}
