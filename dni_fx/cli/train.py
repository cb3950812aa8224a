"""Train a cut model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from torch.utils.data import DataLoader

from dni_fx import verbs
from dni_fx.board import check_board
from dni_fx.cli import losses
from dni_fx.cli.alongside import alongside
from dni_fx.cli.commands.train import Train
from dni_fx.cli.commands.training import CROSS_ENTROPY, KeepRequest, OptimizerName, Precision
from dni_fx.cli.data import BATCH_SIZE, Data, Reader, first_inputs
from dni_fx.cli.decouple import refuse_untrainable
from dni_fx.cli.fixed_batch import fixed_batch
from dni_fx.cli.images import size_of
from dni_fx.cli.models import Opened, cut_model, open_model
from dni_fx.cli.output import say_json
from dni_fx.cli.places import check_name
from dni_fx.cli.rehearsal import check_saved, say_unwritten
from dni_fx.cli.rehearse import judge_all, take_one_step
from dni_fx.cli.resumed import Watch, described
from dni_fx.cli.returned_state import hinting_at_state
from dni_fx.cli.shapes import dtype_of, image_shape
from dni_fx.cli.usage import refuse_idle
from dni_fx.decoupled import Decoupled
from dni_fx.errors import ContextError, DniError, FileError, SizesError
from dni_fx.files import check_place
from dni_fx.plot import check_plot, write_plot
from dni_fx.program import Program
from dni_fx.runtimes import OptimizerFactory
from dni_fx.single_mode import mode_of
from dni_fx.training.batches import Metric
from dni_fx.training.checkpoint import check_checkpoint, is_there
from dni_fx.training.evaluation import evaluate
from dni_fx.training.reports import Epoch, Training
from passes.words import counted

_MODES = {
    "train": "was exported in train mode",
    "eval": "was exported in eval mode, and is trained as it is",
    "any": "has nothing in it that depends on the mode",
}


@dataclass(frozen=True)
class _Report:
    training: Training
    test: Mapping[str, float]
    before: int


def run(request: Train) -> None:
    """Train, keep what is asked for, and say how it went: the first of several processes does."""
    with alongside(request) as mine:
        _run(mine)


def _run(request: Train) -> None:
    _check(request.keep)
    judge = losses.loss_of(request.step.loss)
    opened = open_model(request.source)
    mode = mode_of(opened.model) if isinstance(opened.model, Program) else ""
    refuse_untrainable(opened, request.allow_eval_graph)
    if mode and not request.as_json:
        typer.echo(f"{request.source.model} {_MODES[mode]}")
    data = _data(request, opened)
    if opened.example is None and not isinstance(opened.model, Decoupled | Program):
        opened = Opened(opened.model, first_inputs(data))
    cut = cut_model(opened, request.cut)
    torch.manual_seed(request.data.seed)
    loss, metrics = losses.of_free_outputs(cut, judge), _metrics(cut, request.step.loss)
    labels_of = request.data.data if request.step.loss == CROSS_ENTROPY else ""
    with (
        _told_by_options(request, cut),
        hinting_at_state(cut, isinstance(opened.model, Decoupled)),
    ):
        judge_all(cut, data, request.data.data, loss, bool(labels_of))
        if request.dry_run:
            take_one_step(cut, data, request.keep, {"loss": loss, **_options(request)}, _watch(request, data))
            _say_dry(request, cut, mode, data)
            return
        watch = _watch(request, data)
        options = {"loss": loss, "metrics": metrics, "callbacks": [watch], **_options(request)}
        done = _trained(request, cut, data, options)
    if request.keep.output is not None:
        verbs.save(cut, request.keep.output)  # before anything else can fail
    if request.keep.plot is not None:
        write_plot(done.history, request.keep.plot)
    test = evaluate(cut, data.test, {"loss": loss, **metrics}) if data.test is not None else {}
    _say(request, _Report(done, test, watch.before), mode, data)
    _refuse_infinite(done, request)


def _refuse_infinite(done: Training, request: Train) -> None:
    if done.epochs and not math.isfinite(loss := done.epochs[-1].loss):
        written = [str(path) for path in (request.keep.output, request.keep.checkpoint) if path is not None]
        verb = "hold" if len(written) > 1 else "holds"
        such = f", and {' and '.join(written)} {verb} such a run" if written else ""
        raise DniError(
            f"the training has failed: its loss is {loss} at the end{such}. "
            "If the data is free of nan, try a smaller --lr, or --clip 1."
        )


def _data(request: Train, opened: Opened) -> Data:
    asked = request.data
    size = size_of(asked.image_size) if asked.image_size else None
    reader = Reader(
        asked.batch_size or BATCH_SIZE,
        asked.seed,
        dtype_of(opened.model),
        lambda: image_shape(opened, size),
        bool(request.cut.capture.carry) or _carries(opened),
        asked.target,
    )
    data = reader.read(asked.data)
    if not data.has_images:
        refuse_idle({"--image-size": asked.image_size}, f"{asked.data} is no folder of images")
        if isinstance(opened.model, Decoupled):
            refuse_idle({"--example": request.source.example}, "this model is cut already")
    if data.is_batched or not isinstance(data.train, DataLoader):
        refuse_idle({"--target": asked.target}, f"{asked.data} is no data set of dictionaries")
    if data.is_batched:
        refuse_idle({"--batch-size": asked.batch_size}, f"{asked.data} returns batches, not samples")
    return data


def _carries(opened: Opened) -> bool:
    return isinstance(opened.model, Decoupled) and bool(losses.carried_by(opened.model))


def _options(request: Train) -> dict[str, Any]:
    step = request.step
    return {
        "runtime": step.runtime,
        "optimizer": _optimizer(step.optimizer, step.lr),
        "clip": step.clip,
        "accumulate": step.accumulate,
        "autocast": None if step.precision is Precision.FULL else getattr(torch, step.precision.value),
        "labels_as_context": step.labels,
    }


def _trained(request: Train, cut: Decoupled, data: Data, options: Mapping[str, Any]) -> Training:
    keep = request.keep
    return verbs.train(
        cut,
        data.train,
        epochs=request.step.epochs,
        validation=data.validation,
        checkpoint=keep.checkpoint,
        every=keep.every,
        resume=keep.resume,
        log_dir=keep.tensorboard,
        **options,
    )


def _watch(request: Train, data: Data) -> Watch:
    asked, step = request.data, request.step
    facts = {
        "--data": described(data, asked.data),
        "--batch-size": str(asked.batch_size or BATCH_SIZE),
        "--seed": str(asked.seed),
        "--loss": step.loss,
        "--labels": "given" if step.labels else "not given",
    }
    return Watch(_say_nothing if request.as_json else _say_epoch, request.keep.checkpoint, facts)


@contextmanager
def _told_by_options(request: Train, cut: Decoupled) -> Generator[None]:
    """Whoever stops the run is told how it goes on; what stops it, which option is missing."""
    try:
        yield
    except ContextError as error:
        raise error.instead("Pass --labels") from None
    except SizesError as error:
        if (batch := fixed_batch(verbs.cut_graph(cut))) is None:
            raise
        is_asked = batch == (request.data.batch_size or BATCH_SIZE)
        whole = f"the samples of each part must be a multiple of {batch}"
        remedy = whole if is_asked else f"use --batch-size {batch}"
        raise SizesError(f"{error} The batch size is fixed: {remedy}.") from None
    except KeyboardInterrupt:
        checkpoint = request.keep.checkpoint
        if checkpoint is not None and is_there(checkpoint):
            typer.echo(f"dni-fx: stopped; with --resume it goes on from {checkpoint}.", err=True)
        elif not request.dry_run:
            typer.echo("dni-fx: stopped; nothing of the run is kept. --checkpoint FILE keeps it.", err=True)
        raise


def _check(keep: KeepRequest) -> None:
    """Do nothing if what is asked for can be written, as far as can be told before the training.

    Raises:
        FileError: it cannot.
        DniError: there is no checkpoint to resume from.
    """
    checkpoint = keep.checkpoint
    if keep.output is not None:
        check_name(keep.output, (".pt2",))
    check_place(keep.output)
    check_checkpoint(checkpoint, several=False)
    if checkpoint is not None and keep.output is not None and checkpoint.resolve() == keep.output.resolve():
        raise DniError(f"--output and --checkpoint are both {keep.output}: name two files.")
    if keep.every and checkpoint is None:
        raise typer.BadParameter(
            "it says how often --checkpoint FILE is written: name the file.", param_hint="--every"
        )
    if keep.resume and checkpoint is None:
        raise typer.BadParameter(
            "it goes on from a checkpoint: name it with --checkpoint FILE.", param_hint="--resume"
        )
    if checkpoint is not None and is_there(checkpoint) and not keep.resume:
        raise FileError(f"{checkpoint} is there already. Pass --resume to go on from it, or delete it.")
    if keep.plot is not None:
        check_plot(keep.plot)
        check_place(keep.plot)
    if keep.tensorboard is not None:
        check_board(keep.tensorboard)


def _optimizer(name: OptimizerName, lr: float) -> OptimizerFactory:
    known = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    return lambda parameters: known[name.value](parameters, lr=lr)


def _metrics(cut: Decoupled, loss: str) -> dict[str, Metric]:
    if loss != CROSS_ENTROPY:
        return {}
    return {"accuracy": losses.of_free_outputs(cut, losses.accuracy)}


def _say_epoch(number: int, epoch: Epoch) -> None:
    typer.echo(f"epoch {number}: {epoch}")


def _say_nothing(number: int, epoch: Epoch) -> None:
    pass


def _facts(request: Train, mode: str, data: Data) -> dict[str, Any]:
    told = {"file": request.keep.output, "dry_run": request.dry_run}
    told |= {"mode": mode} if mode else {}
    return told | ({"classes": data.classes} if data.classes else {})


def _say(request: Train, report: _Report, mode: str, data: Data) -> None:
    if request.as_json:
        epochs = [dataclasses.asdict(each) | {"cosine": each.cosine} for each in report.training.epochs]
        told = {"epochs": epochs, "epochs_before": report.before, "test": dict(report.test)}
        say_json(told | _facts(request, mode, data))
        return
    if report.before >= request.step.epochs:
        typer.echo(
            f"nothing was left to train: {request.keep.checkpoint} has had {counted(report.before, 'epoch')} "
            "already. A larger --epochs goes on."
        )
    if data.classes:
        typer.echo(f"classes: {', '.join(f'{at} {name}' for at, name in enumerate(data.classes))}")
    if report.test:
        typer.echo("test: " + ", ".join(f"{name} {value:.4f}" for name, value in report.test.items()))
    for path in (request.keep.output, request.keep.plot, request.keep.tensorboard):
        if path is not None:
            typer.echo(f"wrote {path}")


def _say_dry(request: Train, cut: Decoupled, mode: str, data: Data) -> None:
    keep = request.keep
    files: dict[Path, int | None] = {} if keep.output is None else {keep.output: check_saved(cut)}
    files |= dict.fromkeys(filter(None, (keep.checkpoint, keep.plot, keep.tensorboard)))
    if request.as_json:
        say_json({"epochs": [], "test": {}, **_facts(request, mode, data), "would_write": files})
        return
    if data.classes:
        typer.echo(f"classes: {', '.join(f'{at} {name}' for at, name in enumerate(data.classes))}")
    typer.echo(f"would train for {counted(request.step.epochs, 'epoch')}; one step was tried")
    say_unwritten(files, about=True)
