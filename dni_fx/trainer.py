"""The training loop: batches in, a report out."""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from dni_fx.decoupled import Decoupled, cutting_of, dnis
from dni_fx.errors import StageError
from dni_fx.modes import eval_mode
from dni_fx.runtimes import Outcome, Worker

Metric = Callable[[Any, Any], Tensor | float]
"""The model's outputs and the targets to a number; averaged over batches by their size."""


@dataclass(frozen=True)
class Epoch:
    """Means over one pass through the data; `cosine` is that of synthetic and true gradient, by boundary."""

    loss: float
    metrics: Mapping[str, float]
    cosine: Mapping[str, float]
    steps: int
    seconds: float

    def __str__(self) -> str:
        parts = [f"loss {self.loss:.4f}", *(f"{name} {value:.4f}" for name, value in self.metrics.items())]
        parts += [f"cosine({name}) {value:+.2f}" for name, value in self.cosine.items()]
        return f"{', '.join(parts)} ({self.steps} steps in {self.seconds:.1f} s)"


@dataclass(frozen=True)
class Training:
    """What a run of `train` measured, epoch by epoch."""

    epochs: tuple[Epoch, ...]

    def __str__(self) -> str:
        return "\n".join(f"epoch {i}: {epoch}" for i, epoch in enumerate(self.epochs, start=1))


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


def fit(
    cut: Decoupled,
    worker: Worker,
    batches: Iterable[Any],
    epochs: int,
    metrics: Mapping[str, Metric],
    labels_as_context: bool,
    progress: bool,
    observe: Callable[[int, Epoch], None] | None = None,
) -> Training:
    """Run `epochs` passes over the batches, each a pair of inputs and targets.

    `observe` is told of every epoch when it has ended. A loss that is not finite gives a warning.

    Raises:
        StageError: there is no batch, or the batches cannot be read a second time.
    """
    if not cut.training:
        cut.train()  # a model in train mode may have parts that are to stay in eval mode
    done: list[Epoch] = []
    with _bar(progress) as bar:
        total = len(batches) if hasattr(batches, "__len__") else None  # pyright: ignore[reportArgumentType]
        task = bar.add_task("", total=total, said="")
        for number in range(1, epochs + 1):
            bar.reset(task, description=f"epoch {number}/{epochs}")
            tick = partial(bar.update, task, advance=1)
            done.append(_epoch(cut, worker, batches, metrics, labels_as_context, tick))
            if not done[-1].steps:
                again = (
                    "cannot be read a second time; pass a list or a DataLoader" if number > 1 else "are empty"
                )
                raise StageError(f"epoch {number} has no batch: the batches {again}.")
            if not math.isfinite(done[-1].loss):
                warnings.warn(f"the loss of epoch {number} is {done[-1].loss}", stacklevel=3)
            if observe is not None:
                observe(number, done[-1])
    return Training(tuple(done))


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
    cut: Decoupled,
    worker: Worker,
    batches: Iterable[Any],
    metrics: Mapping[str, Metric],
    labels_as_context: bool,
    tick: Callable[..., None],
) -> Epoch:
    means, cosines, steps, start = _Means(), _Means(), 0, time.perf_counter()
    cutting_of(cut).step.record = True
    try:
        for batch in batches:
            args, kwargs, target = _taken_apart(batch)
            outcome = worker.step(args, kwargs, target, target if labels_as_context else None)
            _note(means, outcome, target, metrics, _size(args, kwargs))
            for name, dni in dnis(cut).items():
                if dni.diagnosis is not None:
                    cosines.add(name, dni.diagnosis.cosine, 1)
            steps += 1
            tick(**({"said": f"loss {float(outcome.loss):.4f}"} if steps % 10 == 1 else {}))
    finally:
        cutting_of(cut).step.record = False
    found = means.all()
    return Epoch(found.pop("loss", float("nan")), found, cosines.all(), steps, time.perf_counter() - start)


def _note(means: _Means, outcome: Outcome, target: Any, metrics: Mapping[str, Metric], size: int) -> None:
    means.add("loss", outcome.loss, size)
    with torch.no_grad():
        for name, metric in metrics.items():
            means.add(name, metric(outcome.outputs, target), size)


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
