"""The training loop: batches in, a report out."""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from dni_fx.board import board
from dni_fx.decoupled import Decoupled
from dni_fx.diagnosis import Diagnosis
from dni_fx.errors import StageError
from dni_fx.history import FIGURES, History, Record, diagnose
from dni_fx.modes import eval_mode
from dni_fx.runtimes import Worker

Metric = Callable[[Any, Any], Tensor | float]
"""The model's outputs and the targets to a number; averaged over batches by their size."""


@dataclass(frozen=True)
class Epoch:
    """Means over one pass through the data.

    `boundaries` holds means of the finite figures of each diagnosis; `locked` is as it was at the end.
    """

    loss: float
    metrics: Mapping[str, float]
    boundaries: Mapping[str, Diagnosis]
    steps: int
    seconds: float

    @property
    def cosine(self) -> dict[str, float]:
        """The mean cosine of synthetic and true gradient, by boundary."""
        return {name: mean.cosine for name, mean in self.boundaries.items()}

    def __str__(self) -> str:
        parts = [f"loss {self.loss:.4f}", *(f"{name} {value:.4f}" for name, value in self.metrics.items())]
        parts += [
            f"cosine({name}) {mean.cosine:+.2f}{' locked' if mean.locked else ''}"
            for name, mean in self.boundaries.items()
        ]
        return f"{', '.join(parts)} ({self.steps} steps in {self.seconds:.1f} s)"


@dataclass(frozen=True)
class Training:
    """What a run of `train` measured, by epochs, and by steps: 1,000 of them at most, evenly spaced."""

    epochs: tuple[Epoch, ...]
    history: tuple[Record, ...] = ()

    def __str__(self) -> str:
        return "\n".join(f"epoch {i}: {epoch}" for i, epoch in enumerate(self.epochs, start=1))


@dataclass(frozen=True)
class Run:
    """What is trained, by what, and what is measured on the way."""

    cut: Decoupled
    worker: Worker
    metrics: Mapping[str, Metric]
    labels_as_context: bool


class _Means:
    def __init__(self) -> None:
        self.totals: defaultdict[str, Tensor | float] = defaultdict(float)
        self.weights: defaultdict[str, float] = defaultdict(float)

    def add(self, name: str, value: Tensor | float, weight: float) -> None:
        self.totals[name] = (
            self.totals[name] + (value.detach() if isinstance(value, Tensor) else value) * weight
        )
        self.weights[name] += weight

    def all(self) -> dict[str, float]:
        return {name: float(total) / self.weights[name] for name, total in self.totals.items()}


class _Guesses:
    """Means of the diagnoses of each boundary."""

    def __init__(self) -> None:
        self.means: defaultdict[str, _Means] = defaultdict(_Means)
        self.locked: dict[str, bool] = {}

    def add(self, record: Record) -> None:
        for name, diagnosis in record.boundaries.items():
            self.locked[name] = diagnosis.locked
            for figure in FIGURES:
                if math.isfinite(value := getattr(diagnosis, figure)):
                    self.means[name].add(figure, value, 1)

    def all(self) -> dict[str, Diagnosis]:
        nothing = dict.fromkeys(FIGURES, math.nan)
        return {
            name: Diagnosis(**nothing | self.means[name].all(), locked=locked)
            for name, locked in self.locked.items()
        }


def fit(
    run: Run,
    batches: Iterable[Any],
    epochs: int,
    progress: bool,
    observe: Callable[[int, Epoch], None] | None = None,
    log_dir: Path | None = None,
) -> Training:
    """Go through the batches `epochs` times, each a pair of inputs and targets.

    `observe` is told of every epoch when it has ended. A loss that is not finite gives a warning.

    Raises:
        StageError: there is no batch, or the batches cannot be read a second time.
        DniError: `log_dir` cannot be written for TensorBoard.
    """
    if not run.cut.training:
        run.cut.train()  # a model in train mode may have parts that are to stay in eval mode
    done: list[Epoch] = []
    logged = nullcontext(_ignore) if log_dir is None else board(log_dir)
    with logged as log, diagnose(run.cut) as history, _bar(progress) as bar:
        total = len(batches) if hasattr(batches, "__len__") else None  # pyright: ignore[reportArgumentType]
        task = bar.add_task("", total=total, said="")
        for number in range(1, epochs + 1):
            bar.reset(task, description=f"epoch {number}/{epochs}")
            done.append(_epoch(run, batches, history, log, partial(bar.update, task, advance=1)))
            if not done[-1].steps:
                again = (
                    "cannot be read a second time; pass a list or a DataLoader" if number > 1 else "are empty"
                )
                raise StageError(f"epoch {number} has no batch: the batches {again}.")
            if not math.isfinite(done[-1].loss):
                warnings.warn(f"the loss of epoch {number} is {done[-1].loss}", stacklevel=3)
            if observe is not None:
                observe(number, done[-1])
    return Training(tuple(done), history.records)


def evaluate(model: nn.Module, batches: Iterable[Any], metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Mean of each metric over the batches, in eval mode and without gradients."""
    means = _Means()
    with eval_mode(model), torch.no_grad():
        for batch in batches:
            args, kwargs, target = _taken_apart(batch)
            outputs = model(*args, **kwargs)
            for name, metric in metrics.items():
                means.add(name, metric(outputs, target), _size(args, kwargs))
    return means.all()


def accuracy(outputs: Tensor, target: Tensor) -> Tensor:
    """Part of the samples whose largest output, (batch, classes), is at the target's place."""
    return (outputs.argmax(-1) == target).float().mean()


def _epoch(
    run: Run,
    batches: Iterable[Any],
    history: History,
    log: Callable[[Record], None],
    tick: Callable[..., None],
) -> Epoch:
    means, guesses, steps, start = _Means(), _Guesses(), 0, time.perf_counter()
    for batch in batches:
        args, kwargs, target = _taken_apart(batch)
        outcome = run.worker.step(args, kwargs, target, target if run.labels_as_context else None)
        with torch.no_grad():
            figures = {name: metric(outcome.outputs, target) for name, metric in run.metrics.items()}
        record = history.note(outcome.loss, figures)
        log(record)
        for name, value in {"loss": record.loss, **record.metrics}.items():
            means.add(name, value, _size(args, kwargs))
        guesses.add(record)
        steps += 1
        tick(**({"said": f"loss {record.loss:.4f}"} if steps % 10 == 1 else {}))
    found = means.all()
    loss = found.pop("loss", float("nan"))
    return Epoch(loss, found, guesses.all(), steps, time.perf_counter() - start)


def _ignore(record: Record) -> None:
    """Nobody wants it."""


def _taken_apart(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Positional inputs, keyword inputs and targets of one batch."""
    try:
        inputs, target = batch
    except (TypeError, ValueError):
        raise StageError(
            f"a batch is a pair (inputs, targets), and this one is a {type(batch).__name__}. The inputs are "
            "a tensor, a tuple of positional arguments, or a dictionary of keyword arguments."
        ) from None
    if isinstance(inputs, Mapping):
        return (), dict(inputs), target
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}, target


def _size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim())
    return next((tensor.shape[0] for tensor in tensors), 1)


def _bar(progress: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    return Progress(
        *columns,
        TextColumn("{task.fields[said]}"),
        console=console,
        disable=not (progress and console.is_terminal),
    )
