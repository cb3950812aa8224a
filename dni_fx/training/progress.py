"""A run drawn on a terminal, and written for TensorBoard."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typing_extensions import override

from dni_fx.board import board
from dni_fx.history import Record
from dni_fx.training.callbacks import Callback
from dni_fx.training.reports import Epoch

if TYPE_CHECKING:
    from dni_fx.training.trainer import Trainer


class Bar(Callback):
    """A bar for each epoch, if there is a terminal to draw it on."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        said = TextColumn("{task.fields[said]}")
        self.progress = Progress(*columns, said, console=console, disable=not console.is_terminal)

    @override
    def begin(self, trainer: Trainer, epochs: int, batches: int | None) -> None:
        self.epochs = epochs
        self.task = self.progress.add_task("", total=batches, said="")
        self._show(trainer)
        self.progress.start()

    @override
    def step(self, trainer: Trainer, record: Record) -> None:
        said: dict[str, Any] = {"said": f"loss {record.loss:.4f}"} if record.step % 10 == 1 else {}
        self.progress.update(self.task, completed=trainer.sofar.steps, **said)

    @override
    def epoch(self, trainer: Trainer, number: int, epoch: Epoch) -> None:
        if number < self.epochs:
            self.progress.reset(self.task)
            self._show(trainer)

    @override
    def end(self, trainer: Trainer) -> None:
        self.progress.stop()

    def _show(self, trainer: Trainer) -> None:
        number = min(len(trainer.epochs) + 1, self.epochs)
        self.progress.update(
            self.task, description=f"epoch {number}/{self.epochs}", completed=trainer.sofar.steps
        )


class Board(Callback):
    """Scalars of every step, and of the validation after every epoch, in a folder.

    Raises:
        DniError: tensorboard is not installed.
        FileError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.stack = ExitStack()
        self.write = self.stack.enter_context(board(folder))

    @override
    def step(self, trainer: Trainer, record: Record) -> None:
        self.write(record)

    @override
    def epoch(self, trainer: Trainer, number: int, epoch: Epoch) -> None:
        if epoch.validation:
            figures = {f"validation/{name}": value for name, value in epoch.validation.items()}
            loss = figures.pop("validation/loss", float("nan"))
            self.write(Record(trainer.steps, loss, {}, figures))

    @override
    def end(self, trainer: Trainer) -> None:
        self.stack.close()
