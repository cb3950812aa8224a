"""Train a cut model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from dni_fx import verbs
from dni_fx.board import check_board
from dni_fx.cli import losses, options
from dni_fx.cli.data import Arrays, Data, first_inputs, read_data
from dni_fx.cli.losses import LossName
from dni_fx.cli.models import Opened, cut_model, open_model
from dni_fx.cli.options import CutRequest, ModelRequest
from dni_fx.cli.output import check_place, save, say_json
from dni_fx.decoupled import Decoupled
from dni_fx.errors import CaptureError, DniError
from dni_fx.modes import eval_mode
from dni_fx.plot import check_plot, write_plot
from dni_fx.program import Program
from dni_fx.runtimes import Loss
from dni_fx.training.batches import Metric
from dni_fx.training.evaluation import evaluate
from dni_fx.training.reports import Epoch, Training

NAME = "train"
EXAMPLE = "dni-fx train dni_fx.demo:mlp --data dni_fx.demo:clusters --plan balanced:stages=3 -o trained.pt2"


class OptimizerName(StrEnum):
    """What moves the weights."""

    ADAM = "adam"
    SGD = "sgd"


_OPTIMIZERS: dict[OptimizerName, Any] = {
    OptimizerName.ADAM: torch.optim.Adam,
    OptimizerName.SGD: torch.optim.SGD,
}


def run(
    model: options.ModelText,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="A .npz file with x_train, y_train (and x_test, y_test) or x, y; or package.module:"
            "function, which returns such arrays as a dictionary or tuple, or batches.",
            show_default=False,
        ),
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a batch, where DATA is arrays.")] = 32,
    lr: Annotated[float, typer.Option(min=0.0, help="The learning rate of the optimizer.")] = 1e-3,
    optimizer: Annotated[
        OptimizerName, typer.Option(help="What moves the model's weights.")
    ] = OptimizerName.ADAM,
    loss: Annotated[LossName, typer.Option(help="What to minimize.")] = LossName.CROSS_ENTROPY,
    runtime: Annotated[
        str, typer.Option(metavar="SPEC", help="How the stages run, such as local.")
    ] = "backprop",
    labels: Annotated[
        bool, typer.Option("--labels", help="Show the labels to the synthesizers (cDNI).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides the order of the samples, and dropout.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Save the trained model to this .pt2 file."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw how loss and synthesizers went: .png or .svg."),
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the figures of every step for TensorBoard.")
    ] = None,
    weights: options.Weights = None,
    example: options.Example = "",
    allow_pickle: options.AllowPickle = False,
    plan: options.PlanText = None,
    synthesizer: options.SynthesizerText = None,
    interface: options.InterfaceText = None,
    frontend: options.FrontEndText = None,
    as_json: options.AsJson = False,
) -> None:
    """Train a cut model on data.

    Reports the loss, the accuracy and the cosine of synthetic and true gradient at each boundary. A model
    that is not cut yet is cut first.
    """
    _check(output, plot, tensorboard)
    opened = open_model(ModelRequest(model, weights, example, allow_pickle))
    read = read_data(data, batch_size, seed, _dtype(opened.model))
    if opened.example is None and not isinstance(opened.model, Decoupled | Program):
        opened = Opened(opened.model, first_inputs(read))
    cut = cut_model(opened, CutRequest.of(plan, synthesizer, interface, frontend))
    torch.manual_seed(seed)
    _rehearse(cut, read, data, loss)
    training = verbs.train(
        cut,
        read.train,
        loss=_loss(loss),
        runtime=runtime,
        optimizer=partial(_OPTIMIZERS[optimizer], lr=lr),
        epochs=epochs,
        metrics=_metrics(loss),
        labels_as_context=labels,
        observe=None if as_json else _say_epoch,
        log_dir=tensorboard,
    )
    if output is not None:
        save(cut, output)  # before anything else can fail
    if plot is not None:
        write_plot(training.history, plot)
    test = evaluate(cut, read.test, {"loss": _loss(loss), **_metrics(loss)}) if read.test is not None else {}
    _say(_Report(training, test), output, plot, as_json)


@dataclasses.dataclass(frozen=True)
class _Report:
    training: Training
    test: Mapping[str, float]


def _check(output: Path | None, plot: Path | None, tensorboard: Path | None) -> None:
    """Do nothing if what is asked for can be written, as far as can be told before the training."""
    check_place(output)
    if plot is not None:
        check_plot(plot)
        check_place(plot)
    if tensorboard is not None:
        check_board(tensorboard)


def _loss(name: LossName) -> Loss:
    return losses.cross_entropy if name is LossName.CROSS_ENTROPY else losses.mse


def _metrics(name: LossName) -> dict[str, Metric]:
    return {"accuracy": losses.accuracy} if name is LossName.CROSS_ENTROPY else {}


def _rehearse(cut: Decoupled, data: Data, text: str, loss: LossName) -> None:
    """Compute the loss of every label once, of a few samples each, before hours of training.

    Raises:
        DniError: the model cannot take the data, or a label is none of its classes.
    """
    for part, batches in (("training", data.train), ("test", data.test)):
        if not isinstance(batches, Arrays):
            continue  # batches of the user's own may be costly to read, or be read only once
        try:
            with eval_mode(cut), torch.no_grad():
                outputs = cut(batches.x[:2])
                _loss(loss)(outputs, batches.y[:2])
        except CaptureError:
            return  # a file of the training graph alone
        except (RuntimeError, IndexError) as error:
            line = next(iter(str(error).strip().splitlines()), "")
            raise DniError(f"the model cannot take the {part} data of {text}: {line}") from error
        if loss is LossName.CROSS_ENTROPY and batches.y.numel():
            losses.check_labels(outputs, batches.y, f"the {part} data of {text}")


def _dtype(model: nn.Module | Program) -> torch.dtype:
    tree = model.tree if isinstance(model, Program) else model
    parameters: Iterable[nn.Parameter] = tree.parameters()
    return next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)


def _say_epoch(number: int, epoch: Epoch) -> None:
    typer.echo(f"epoch {number}: {epoch}")


def _say(report: _Report, output: Path | None, plot: Path | None, as_json: bool) -> None:
    if as_json:
        epochs = [dataclasses.asdict(each) | {"cosine": each.cosine} for each in report.training.epochs]
        say_json({"epochs": epochs, "test": dict(report.test), "file": output})
        return
    if report.test:
        typer.echo("test: " + ", ".join(f"{name} {value:.4f}" for name, value in report.test.items()))
    for path in (output, plot):
        if path is not None:
            typer.echo(f"wrote {path}")
