"""Epoch after epoch, with checkpoints on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dni_fx.errors import DniError, StageError
from dni_fx.history import diagnosed
from dni_fx.randomness import random_state, set_random_state
from dni_fx.runtimes import Findings
from dni_fx.training.batches import Batch, device_of
from dni_fx.training.callbacks import Callback
from dni_fx.training.interrupts import Asked, deferred
from dni_fx.training.means import Sofar
from dni_fx.training.order import Order
from dni_fx.training.reports import Epoch
from dni_fx.warning import warn

if TYPE_CHECKING:
    from dni_fx.training.trainer import Trainer


@dataclass(frozen=True)
class Loop:
    """One call of `Trainer.fit`: what it goes through, how often, and where the state of the run is kept."""

    trainer: Trainer
    order: Order
    epochs: int
    validation: Iterable[Any] | None
    path: Path | None
    every: int
    callbacks: Sequence[Callback]

    def run(self) -> None:
        """Train until there have been as many epochs as asked for, or somebody stops the run."""
        trainer, batches = self.trainer, self.order.batches
        if self.path is not None and self.every and not self.order.is_resumable:
            warn(
                f"a {type(batches).__name__} cannot go on in the middle of an epoch, so checkpoints are "
                "written after epochs only. Pass a DataLoader, or a loader with a state_dict."
            )
        trainer.is_stopped = False
        trainer.worker.prepare()
        if not self.order.is_resuming:  # what an earlier call left unfinished is no part of this epoch
            trainer.sofar = Sofar()
            trainer.stream.begin()
            trainer.worker.updates.forget()
        with ExitStack() as stack:
            asked = stack.enter_context(deferred(self.path is not None))
            stack.enter_context(diagnosed(trainer.cut))
            for callback in self.callbacks:
                stack.callback(callback.end, trainer)
                callback.begin(trainer, self.epochs, self.order.length)
            while len(trainer.epochs) < self.epochs and not trainer.is_stopped:
                self._epoch(asked)
            trainer.worker.gather()
            epochs = [epoch.plain() for epoch in trainer.epochs]
            trainer.worker.lead("end", {"epochs": epochs, "history": trainer.history.state_dict()})

    def _epoch(self, asked: Asked) -> None:
        trainer, number = self.trainer, len(self.trainer.epochs)
        self._pass(number, asked)
        if self.order.is_resuming:  # a callback has gone back to a state, which is of another pass
            return
        if not trainer.sofar.steps:
            again = "cannot be read a second time; pass a list or a DataLoader" if number else "are empty"
            raise StageError(f"epoch {number + 1} has no batch: the batches {again}.")
        if self.path is not None:  # what comes now may fail, and is done again: validation and callbacks
            self._save(self.path)
        epoch = self._report(number, asked)
        trainer.worker.end_epoch(epoch.validation.get("loss", epoch.loss))
        trainer.epochs.append(epoch)
        self.order.finish()
        trainer.sofar = Sofar()
        trainer.stream.begin()
        if trainer.callbacks:
            trainer.worker.gather(alone=True)
        with trainer.worker.unmoved():
            for callback in self.callbacks:
                callback.epoch(trainer, number + 1, epoch)
        if self.path is not None:
            self._save(self.path)
        asked.obey()

    def _pass(self, number: int, asked: Asked) -> None:
        """Train on the batches of one epoch, until a callback goes back to a state."""
        trainer = self.trainer
        start = time.perf_counter() - trainer.sofar.seconds
        for batch in self._batches(number):
            self._step(batch)
            if not self.order.is_resuming:
                trainer.sofar.seconds = time.perf_counter() - start
                if not trainer.worker.updates.batches:  # none whose gradients would be lost
                    self._pause(asked)
            if self.order.is_resuming:
                return
        trainer.worker.flush()
        self._note(trainer.worker.rest())

    def _batches(self, number: int) -> Iterator[Any]:
        """The batches of one epoch; if they break off with an error, the run is kept as far as it came."""
        batches, nothing = self.order.passage(number), object()
        while True:
            before = None if self.path is None else random_state()
            try:
                batch = next(batches, nothing)
            except Exception as error:
                if self.path is not None and before is not None:
                    set_random_state(before)  # what the batch that is missing has drawn was drawn for nothing
                    error.add_note(self._kept(self.path))
                raise
            if batch is nothing:
                return
            yield batch

    def _kept(self, path: Path) -> str:
        """Keep the state of the run where its batches have broken off; returns what is to be said of it."""
        steps = self.trainer.steps
        try:
            if self.trainer.sofar.steps:  # else it is as it was when it was kept last, or has not begun
                self._save(path)
        except DniError as refusal:
            return f"dni_fx: the run could not be kept in {path} after step {steps}: {refusal}"
        return f"dni_fx: the run is kept in {path} as it was after step {steps}; resume it to go on there."

    def _step(self, batch: Any) -> None:
        trainer = self.trainer
        taken = Batch.of(batch, device_of(trainer.cut))
        trainer.worker.lead("batch", (taken.args, taken.kwargs, taken.target))
        self._note(trainer.worker.tell(trainer.found_on(taken)))

    def _note(self, steps: Iterable[Findings]) -> None:
        """Take in the figures of steps of which all is known."""
        trainer = self.trainer
        for found in steps:
            record = trainer.history.note(
                found.loss if found.loss is not None else math.nan,
                found.metrics,
                found.step,
                found.boundaries,
            )
            trainer.sofar.add(record, found.size)
            with trainer.worker.unmoved():
                for callback in self.callbacks:
                    callback.step(trainer, record)

    def _pause(self, asked: Asked) -> None:
        """Keep the state of the run if it is time, or if it is to end here."""
        asked.number = asked.number or self.trainer.worker.asked()
        is_time = self.every and self.trainer.steps % self.every < self.trainer.worker.recipe.accumulate
        if self.path is not None and self.order.is_resumable and (is_time or asked.number is not None):
            self._save(self.path)
        asked.obey()

    def _save(self, path: Path) -> None:
        """Keep the state of the run, with all that there is to tell of its steps."""
        self._note(self.trainer.worker.rest())
        self.trainer.save(path)

    def _report(self, number: int, asked: Asked) -> Epoch:
        sofar = self.trainer.sofar
        figures = sofar.figures.all()
        loss = figures.pop("loss")
        if not math.isfinite(loss):
            warn(f"the loss of epoch {number + 1} is {loss}")
        judged = {} if self.validation is None else self.trainer.evaluate(self._watched(asked))
        if self.validation is not None and not judged:
            raise StageError(f"epoch {number + 1} has no batch to validate on: pass a list or a DataLoader.")
        return Epoch(loss, figures, sofar.boundaries(), sofar.steps, sofar.seconds, judged)

    def _watched(self, asked: Asked) -> Iterator[Any]:
        """The batches to validate on, until somebody wants to stop the run, which is kept already."""
        for batch in self.validation or ():
            asked.obey()
            yield batch
