"""The training loop: batches in, a report out, and a run that can be stopped and go on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dni_fx.decoupled import Decoupled
from dni_fx.errors import ContextError, DniError, StageError
from dni_fx.history import History
from dni_fx.modes import resume_training
from dni_fx.runtimes import (
    RUNTIMES,
    Findings,
    Loss,
    OptimizerFactory,
    Outcome,
    Recipe,
    Runtime,
    SchedulerFactory,
)
from dni_fx.training.batches import Batch, Metric, device_of, measured
from dni_fx.training.callbacks import Callback
from dni_fx.training.checkpoint import (
    State,
    check_checkpoint,
    is_to_be_resumed,
    joined,
    read_checkpoint,
    write_checkpoint,
)
from dni_fx.training.evaluation import evaluate
from dni_fx.training.fitting import refuse_other_runs
from dni_fx.training.follower import Follower
from dni_fx.training.loop import Loop
from dni_fx.training.means import Sofar
from dni_fx.training.order import Order
from dni_fx.training.progress import Bar, Board
from dni_fx.training.reports import Epoch, Training
from dni_fx.training.stream import Stream
from passes import parse
from passes.words import counted


class Trainer:
    """Trains a cut model by a runtime, epoch after epoch, on batches that are pairs of inputs and targets.

    `loss` takes the model's outputs and the targets. `optimizer` makes one for some of the parameters: all
    of them, or those of one stage; Adam at 1e-3 if not given. `scheduler` makes one for an optimizer, and
    moves after its steps, or after epochs with `per_epoch`. `clip` bounds the norm of one optimizer's
    gradients; those of `accumulate` batches are averaged before a step; `autocast` is a type for matrix
    products, and with float16 the loss is scaled. `labels_as_context` shows the targets to the synthesizers.

        trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, runtime="local")
        trainer.fit(loader, epochs=10, validation=held_out, checkpoint="run.ckpt", resume=True)

    Raises:
        StageError: the runtime cannot train this model.
    """

    def __init__(
        self,
        cut: Decoupled,
        *,
        loss: Loss,
        optimizer: OptimizerFactory | None = None,
        runtime: str | Runtime = "backprop",
        scheduler: SchedulerFactory | None = None,
        per_epoch: bool = False,
        clip: float = 0.0,
        accumulate: int = 1,
        autocast: torch.dtype | None = None,
        metrics: Mapping[str, Metric] | None = None,
        labels_as_context: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if not isinstance(cast("object", cut), Decoupled):
            raise DniError(f"a {type(cut).__name__} is not cut: pass dni_fx.decouple(model).")
        if "loss" in (metrics or {}):
            raise StageError("the loss is reported by itself: give the metric another name.")
        self.cut = cut
        self.metrics = dict(metrics or {})
        self.labels_as_context = labels_as_context
        self.callbacks = list(callbacks)
        optimizer = optimizer or partial(torch.optim.Adam, lr=1e-3)
        recipe = Recipe(loss, optimizer, scheduler, per_epoch, clip, accumulate, autocast)
        chosen = parse(runtime, RUNTIMES) if isinstance(runtime, str) else runtime
        self.runtime = chosen.keeps_like
        self.worker = chosen.start(cut, recipe)
        self.steps = 0
        self.epochs: list[Epoch] = []
        self.sofar = Sofar()
        self.history = History(cut)
        self.is_stopped = False
        self.stream = Stream(cut)
        self._order = Order(())
        self._frozen = [part for part in cut.modules() if not part.training] if cut.training else []

    def step(self, batch: Any) -> Outcome:
        """Train on one batch; returns its loss and the outputs.

        Raises:
            StageError: it is not a pair of inputs and targets.
        """
        return self.train_on(Batch.of(batch, device_of(self.cut)).part(self.worker.share))

    def train_on(self, batch: Batch) -> Outcome:
        """Train on one batch that was taken apart.

        A model in eval mode is put in train mode, but for the parts that were in eval mode in the last step.
        """
        self._frozen = resume_training(self.cut, self._frozen)
        context = batch.target if self.labels_as_context else None
        if not (context is None or isinstance(context, Tensor)):
            raise StageError(
                f"labels_as_context shows targets that are a tensor, not a {type(context).__name__}."
            )
        batch = self.stream.given(batch)
        try:
            with batch.explained(self.cut):
                outcome = self.worker.step(batch.args, batch.kwargs, batch.target, context)
        except ContextError as error:
            remedy = "Give the batch labels for its targets" if self.labels_as_context else _SHOW_LABELS
            raise error.instead(remedy) from None
        self.stream.take(outcome.outputs)
        self.steps += 1
        return outcome

    def found_on(self, batch: Batch) -> Findings:
        """Train on one batch; returns what this process knows of it."""
        batch = batch.part(self.worker.share)
        outcome = self.train_on(batch)
        boundaries = self.history.fresh()
        if not self.worker.has_loss:
            return Findings(self.steps, batch.size, None, {}, boundaries)
        with self.worker.across():
            metrics = measured(self.metrics, outcome.outputs, batch.target)
        return Findings(self.steps, batch.size, outcome.loss, metrics, boundaries)

    def stop(self) -> None:
        """End the run after the epoch that is under way."""
        self.is_stopped = True

    def fit(
        self,
        batches: Iterable[Any],
        epochs: int = 1,
        *,
        validation: Iterable[Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: int = 0,
        resume: bool = False,
        progress: bool = True,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> Training:
        """Train until there have been `epochs` passes through the batches, those before this call included.

        The state of the run is written to `checkpoint` after every epoch, after `every` steps if that is not
        0, on Ctrl-C, and where the batches break off with an error; with `resume` the run goes on from there
        if the file is there, and ends as if it had never stopped. Optimizers keep the options of the file; a
        warning names those that were asked to be others. TensorBoard finds the figures of every step in
        `log_dir`.

        Raises:
            StageError: there is no batch, or the batches cannot be read as they would have to be.
            FileError: the checkpoint cannot be written or read, or is there and not to be resumed.
            DniError: the figures are to be logged, and tensorboard is not installed.
        """
        if not self.worker.leads:
            return Follower(self).run()
        path = None if checkpoint is None else Path(checkpoint)
        if any(count < 0 or count % 1 for count in (every, epochs)) or (every and path is None):
            raise StageError(
                f"every={every} and epochs={epochs} are whole numbers, 0 or more, and every needs a "
                "checkpoint."
            )
        check_checkpoint(path, self.worker.is_one_of_several)
        drawn: list[Callback] = [Bar()] if progress else []
        drawn += [] if log_dir is None else [Board(Path(log_dir))]
        with self.worker.leading():
            if path is not None and is_to_be_resumed(path, resume):
                self.load(path)
            self._order = self._order.over(batches)
            Loop(self, self._order, epochs, validation, path, every, [*self.callbacks, *drawn]).run()
        return self.report

    @property
    def report(self) -> Training:
        """What has been measured up to now."""
        return Training(tuple(self.epochs), self.history.records)

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Means of the loss and the metrics over batches, in eval mode; of several processes, all call it."""
        self.worker.gather(alone=self.worker.is_leading)
        recipe, updates = self.worker.recipe, self.worker.updates
        with self.worker.across(), updates.autocast():
            return evaluate(self.cut, batches, {"loss": recipe.loss_of, **self.metrics})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state of the run to a file, which replaces one that is there when it is whole.

        Several processes, all of which call it, make a folder with a part of each, if there is no file yet.

        Raises:
            FileError: the path cannot be written.
            StageError: gradients wait for more batches, or the loader cannot go on where it is.
        """
        parts = self._parts(alone=True)
        if self.worker.leads:
            write_checkpoint(Path(path), parts, self.worker.is_one_of_several)
        else:
            for _ in parts:
                raise AssertionError("what is kept belongs to the process that leads")

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go back to the state in a file that `save` or `fit` wrote. Nothing in it is run.

        Raises:
            FileError: the file cannot be read, or is damaged or no checkpoint.
            StageError: it is of another model, or of another way to train.
        """
        self.load_state_dict(read_checkpoint(Path(path)))

    def state_dict(self) -> State:
        """All that the run depends on: weights, synthesizers, optimizers, random state, place in the data.

        Raises:
            StageError: gradients wait for more batches, or the loader cannot go on where it is.
        """
        return joined(self._parts(alone=self.worker.is_leading))

    def _parts(self, alone: bool) -> Iterator[dict[str, Any]]:
        """The state in parts, by process; with `alone`, none of them for those that do not lead.

        Raises:
            StageError: gradients wait for more batches, or the loader cannot go on where it is.
        """
        if waiting := self.worker.updates.batches:
            raise StageError(f"gradients of {counted(waiting, 'batch')} wait for more, and would be lost.")
        rest = self._rest()
        for at, piece in enumerate(self.worker.pieces(alone)):
            yield piece if at else {**piece, "rest": rest}

    def _rest(self) -> dict[str, Any]:
        """All of the state but for weights, buffers, synthesizers and optimizers."""
        return {
            "runtime": self.runtime,
            "updates": self.worker.updates.state_dict(),
            "steps": self.steps,
            "epochs": [epoch.plain() for epoch in self.epochs],
            "sofar": self.sofar.state_dict(),
            "history": self.history.state_dict(),
            "order": self._order.state_dict(),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "stream": self.stream.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned; the loader goes back when `fit` has it.

        In a callback it goes back with the next batch, which is the one that came after the state.

        Raises:
            StageError: it is of another model, or of another way to train.
        """
        refuse_other_runs(self, state)
        self.worker.lead("state", {key: each for key, each in state.items() if key not in _TRAINED})
        self.worker.renew()
        self.worker.updates.load_state_dict(state["updates"])
        self.cut.load_state_dict(state["model"])
        self.go_on(state)

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Go back to all of a state but for weights, buffers, synthesizers and optimizers."""
        self.steps = state["steps"]
        self.epochs = [Epoch.of(plain) for plain in state["epochs"]]
        self.sofar = Sofar()
        self.sofar.load_state_dict(state["sofar"])
        self.history = History(self.cut)
        self.history.load_state_dict(state["history"])
        self._order.load_state_dict(state["order"])
        for callback, each in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(each)
        self.stream.load_state_dict(state["stream"])


_TRAINED = ("model", "updates")
"""What of a state other processes get when it is known what each of them trains."""
_SHOW_LABELS = "Pass labels_as_context=True, name the input of the model that holds them with context="
