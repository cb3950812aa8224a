"""A whole training run as one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from dni_fx.decoupled import Decoupled
from dni_fx.runtimes import Loss
from dni_fx.training.callbacks import Told
from dni_fx.training.reports import Epoch, Training
from dni_fx.training.trainer import Trainer


def train(
    cut: Decoupled,
    batches: Iterable[Any],
    *,
    loss: Loss,
    epochs: int = 1,
    observe: Callable[[int, Epoch], None] | None = None,
    validation: Iterable[Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 0,
    resume: bool = False,
    progress: bool = True,
    log_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Training:
    """Train a cut model on batches, each a pair of inputs and targets, and report what was measured.

    `observe` is called with the number and the figures of every epoch that has ended. What else there is to
    say is as for `Trainer`, which takes the `options`, and its `fit`.

    Raises:
        StageError: the runtime cannot train this model, or there are no batches.
        FileError: the checkpoint cannot be written or read, or is there and not to be resumed.
        DniError: the figures are to be logged, and tensorboard is not installed or cannot write there.
    """
    trainer = Trainer(cut, loss=loss, **options)
    trainer.callbacks += [] if observe is None else [Told(observe)]
    return trainer.fit(
        batches,
        epochs,
        validation=validation,
        checkpoint=checkpoint,
        every=every,
        resume=resume,
        progress=progress,
        log_dir=log_dir,
    )
