"""Train a cut model."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import typer
from torch import nn

from dni_fx import verbs
from dni_fx.board import check_board
from dni_fx.cli import losses, options, training
from dni_fx.cli.data import Arrays, Data, first_inputs, read_data
from dni_fx.cli.losses import LossName
from dni_fx.cli.models import Opened, cut_model, open_model
from dni_fx.cli.options import CutRequest, ModelRequest
from dni_fx.cli.output import save, say_json
from dni_fx.cli.training import OptimizerName, Precision
from dni_fx.decoupled import Decoupled
from dni_fx.errors import CaptureError, ContextError, DniError, FileError
from dni_fx.files import check_place
from dni_fx.modes import eval_mode
from dni_fx.plot import check_plot, write_plot
from dni_fx.program import Program
from dni_fx.runtimes import Loss
from dni_fx.training.batches import Metric
from dni_fx.training.evaluation import evaluate
from dni_fx.training.reports import Epoch, Training

NAME = "train"
EXAMPLE = "dni-fx train dni_fx.demo:mlp --data dni_fx.demo:clusters --plan balanced:stages=3 -o trained.pt2"


def run(
    model: options.ModelText,
    data: training.DataText,
    epochs: training.Epochs = 1,
    batch_size: training.BatchSize = 32,
    lr: training.Rate = 1e-3,
    optimizer: training.Optimizer = OptimizerName.ADAM,
    loss: training.Loss = LossName.CROSS_ENTROPY,
    runtime: training.RuntimeText = "backprop",
    labels: training.Labels = False,
    clip: training.Clip = 0.0,
    accumulate: training.Accumulate = 1,
    precision: training.PrecisionName = Precision.FULL,
    seed: training.Seed = 0,
    output: training.Output = None,
    checkpoint: training.Checkpoint = None,
    every: training.Every = 0,
    resume: training.Resume = False,
    plot: training.Plot = None,
    tensorboard: training.Tensorboard = None,
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
    _check(output, plot, tensorboard, checkpoint, every, resume)
    opened = open_model(ModelRequest(model, weights, example, allow_pickle))
    read = read_data(data, batch_size, seed, _dtype(opened.model))
    if opened.example is None and not isinstance(opened.model, Decoupled | Program):
        opened = Opened(opened.model, first_inputs(read))
    cut = cut_model(opened, CutRequest.of(plan, synthesizer, interface, frontend))
    torch.manual_seed(seed)
    _rehearse(cut, read, data, loss)
    with _told_by_options(checkpoint):
        done = verbs.train(
            cut,
            read.train,
            loss=_loss(loss),
            runtime=runtime,
            optimizer=optimizer.factory(lr),
            clip=clip,
            accumulate=accumulate,
            autocast=precision.dtype,
            epochs=epochs,
            metrics=_metrics(loss),
            labels_as_context=labels,
            observe=None if as_json else _say_epoch,
            checkpoint=checkpoint,
            every=every,
            resume=resume,
            log_dir=tensorboard,
        )
    if output is not None:
        save(cut, output)  # before anything else can fail
    if plot is not None:
        write_plot(done.history, plot)
    test = evaluate(cut, read.test, {"loss": _loss(loss), **_metrics(loss)}) if read.test is not None else {}
    _say(_Report(done, test), output, plot, as_json)


@contextmanager
def _told_by_options(checkpoint: Path | None) -> Generator[None]:
    """Whoever stops the run is told how it goes on; what stops it, which option is missing."""
    try:
        yield
    except ContextError as error:
        raise error.instead("Pass --labels") from None
    except KeyboardInterrupt:
        if checkpoint is not None and checkpoint.exists():
            typer.echo(f"dni-fx: stopped; with --resume it goes on from {checkpoint}.", err=True)
        raise


@dataclasses.dataclass(frozen=True)
class _Report:
    training: Training
    test: Mapping[str, float]


def _check(
    output: Path | None,
    plot: Path | None,
    tensorboard: Path | None,
    checkpoint: Path | None,
    every: int,
    resume: bool,
) -> None:
    """Do nothing if what is asked for can be written, as far as can be told before the training.

    Raises:
        FileError: it cannot.
        DniError: there is no checkpoint to resume from.
    """
    check_place(output)
    check_place(checkpoint)
    if checkpoint is not None and output is not None and checkpoint.resolve() == output.resolve():
        raise DniError(f"--output and --checkpoint are both {output}: name two files.")
    if every and checkpoint is None:
        raise DniError("--every says how often --checkpoint FILE is written: name the file.")
    if resume and checkpoint is None:
        raise DniError("--resume goes on from a checkpoint: name it with --checkpoint FILE.")
    if checkpoint is not None and checkpoint.exists() and not resume:
        raise FileError(f"{checkpoint} is there already. Pass --resume to go on from it, or delete it.")
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
