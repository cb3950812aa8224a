"""A run as the processes see it that do not lead it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dni_fx.history import diagnosed
from dni_fx.training.batches import Batch
from dni_fx.training.interrupts import Asked, deferred
from dni_fx.training.reports import Epoch

if TYPE_CHECKING:
    from dni_fx.training.reports import Training
    from dni_fx.training.trainer import Trainer


@dataclass(frozen=True)
class Follower:
    """Does what the leading process says: trains its own part on each batch, and hands over what it has."""

    trainer: Trainer

    def run(self) -> Training:
        """Follow until the run has ended.

        Raises:
            StageError: it was broken off, or another process is lost.
        """
        worker = self.trainer.worker
        with deferred(True) as asked, diagnosed(self.trainer.cut):
            for order, details in worker.orders():
                self._obey(order, details)
                self._pass_on(asked)
        return self.trainer.report

    def _obey(self, order: str, details: Any) -> None:
        """Do what the leading process says; an error in it is told to all, even if this process lives on."""
        try:
            self._do(order, details)
        except BaseException as error:
            self.trainer.worker.fail(error)
            raise

    def _do(self, order: str, details: Any) -> None:
        trainer = self.trainer
        match order:
            case "begin":
                trainer.worker.prepare()
                trainer.worker.updates.forget()
            case "batch":
                _nothing(trainer.worker.tell(trainer.found_on(Batch(*details))))
            case "state":
                trainer.worker.renew()
                trainer.go_on(details)
            case "flush":
                trainer.worker.flush()
            case "epoch":
                trainer.worker.end_epoch(details)
            case "gather":
                trainer.worker.gather(alone=details)
            case "keep":
                _nothing(trainer.worker.pieces(alone=True))
            case "end":
                trainer.epochs = [Epoch.of(plain) for plain in details["epochs"]]
                trainer.history.load_state_dict(details["history"])
            case _:
                raise AssertionError(f"{order} is no order")

    def _pass_on(self, asked: Asked) -> None:
        """Tell the process that leads of a signal that came here."""
        if asked.number is not None:
            self.trainer.worker.ask(asked.number)
            asked.number = None


def _nothing(found: Iterator[object]) -> None:
    """Do what there is to be done for an iterator that yields something only in the process that leads."""
    for _ in found:
        raise AssertionError("this belongs to the process that leads")
