"""Write a cut model for other tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from dni_fx import verbs
from dni_fx.assembly import example_of
from dni_fx.cli import losses
from dni_fx.cli.commands.export import Export, Form
from dni_fx.cli.commands.training import CROSS_ENTROPY
from dni_fx.cli.examples import read_example
from dni_fx.cli.models import Opened, cut_model, open_model
from dni_fx.cli.output import say_json
from dni_fx.cli.places import check_name
from dni_fx.cli.rehearsal import beside
from dni_fx.cli.usage import refuse_idle
from dni_fx.decoupled import Decoupled
from dni_fx.exporters import EXPORTERS, TRAINING_EXPORTERS, Written
from dni_fx.lessons import export_training
from dni_fx.modes import eval_mode
from passes import parse

Write = Callable[[Path], Written]


def run(request: Export) -> None:
    """Write the file, and say what is in it."""
    prepare = _training if request.form is Form.TRAINING else _inference
    write = prepare(request)
    if not request.dry_run:
        written = write(request.output)
        sizes = {file: file.stat().st_size for file in written.files}
    else:
        # What a file computes is compared with PyTorch, and for that there has to be one.
        with beside(request.output) as path:
            made = write(path)
            sizes = {
                # A folder was asked for, or a file that others may lie beside.
                request.output.parent / file.relative_to(path.parent): file.stat().st_size
                for file in made.files
            }
        written = replace(made, path=request.output, files=tuple(sizes))
    if request.as_json:
        say_json({**vars(written), "bytes": sum(sizes.values()), "dry_run": request.dry_run})
    else:
        typer.echo(f"{'would write' if request.dry_run else 'wrote'} {written}")


def _inference(request: Export) -> Write:
    asked = request.lesson
    given = {f"--{name}": value for name, value in vars(asked).items() if value not in (None, False)}
    refuse_idle(given, "an inference graph is not trained", ", or say --form training")
    exporter = parse(request.exporter or "onnx", EXPORTERS)
    check_name(request.output, exporter.suffixes)
    exporter.check_place(request.output)
    opened, cut = _opened(request)
    return lambda path: verbs.export(cut, path, exporter=exporter, inputs=opened.example)


def _training(request: Export) -> Write:
    asked = request.lesson
    exporter = parse(request.exporter or "onnx-training", TRAINING_EXPORTERS)
    exporter.check_place(request.output)
    name = asked.loss or CROSS_ENTROPY
    loss = losses.loss_of(name)
    if name not in losses.LOSSES and asked.target is None:
        raise typer.BadParameter(f"only you know what {name} takes: add --target SHAPE, such as 8x10.")
    opened, cut = _opened(request)
    targets = _targets(asked.target, cut, opened, name)
    options = {"optimizer": asked.optimizer, "rate": asked.lr}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}

    def write(path: Path) -> Written:
        return export_training(
            cut,
            path,
            inputs=opened.example,
            targets=targets,
            loss=losses.of_free_outputs(cut, loss),
            labels_as_context=asked.labels,
            exporter=exporter,
            **given,
        )

    return write


def _opened(request: Export) -> tuple[Opened, Decoupled]:
    opened = open_model(request.source)
    return opened, cut_model(opened, request.cut)


def _targets(asked: str | None, cut: Decoupled, opened: Opened, loss: str) -> Any:
    """An example of the targets: as it was asked for, or such as the loss takes for the model's output."""
    if asked is not None:
        (found, *others) = read_example(asked)
        return (found, *others) if others else found
    args, kwargs = example_of(cut, opened.example).arguments()
    with eval_mode(cut), torch.no_grad(), torch.random.fork_rng(devices=[]):
        scores = losses.first_tensor(losses.free_of(cut, cut(*args, **kwargs)))
    return _labels(scores) if loss == CROSS_ENTROPY else torch.zeros_like(scores)


def _labels(scores: Tensor) -> Tensor:
    rows = scores.shape[:-1]
    return torch.arange(rows.numel()).remainder(scores.shape[-1]).reshape(rows)
