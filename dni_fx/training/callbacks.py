"""What happens on the way through a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from dni_fx.history import Record
from dni_fx.training.reports import Epoch

if TYPE_CHECKING:
    from dni_fx.training.trainer import Trainer


class Callback:
    """Is told of every step and epoch; override what you need. `trainer.stop()` ends the run early.

    What `state_dict` returns is in every checkpoint: tensors, numbers, texts, and containers of them.
    """

    def begin(self, trainer: Trainer, epochs: int, batches: int | None) -> None:
        """The run begins, or goes on: this many epochs in all, each of so many batches if that is known."""

    def step(self, trainer: Trainer, record: Record) -> None:
        """A batch has been trained on."""

    def epoch(self, trainer: Trainer, number: int, epoch: Epoch) -> None:
        """An epoch has ended, counted from 1, and its validation; the whole model is there."""

    def end(self, trainer: Trainer) -> None:
        """The run has ended, or failed."""

    def state_dict(self) -> dict[str, Any]:
        """What it has to know when the run goes on."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned."""


class Told(Callback):
    """Hands the number and the figures of every epoch to a function."""

    def __init__(self, observe: Callable[[int, Epoch], None]) -> None:
        self.observe = observe

    @override
    def epoch(self, trainer: Trainer, number: int, epoch: Epoch) -> None:
        self.observe(number, epoch)
