"""`dni-fx export`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dni_fx.cli.commands.base import Request
from dni_fx.cli.commands.options import CutRequest, DryRun, ModelRequest
from dni_fx.cli.completion import completing


class Form(StrEnum):
    """What a file says of a model."""

    INFERENCE = "inference"
    TRAINING = "training"


@dataclass(frozen=True, kw_only=True)
class LessonRequest:
    """What a device is to train a model for, with --form training; nothing for what was left open."""

    loss: Annotated[
        str | None,
        typer.Option(
            metavar="LOSS",
            help="What a device is to minimize: cross-entropy, mse, or package.module:function, which takes "
            "outputs and target; cross-entropy if not said.",
            show_default=False,
        ),
    ] = None
    target: Annotated[
        str | None,
        typer.Option(
            metavar="SHAPE",
            help="An example of the targets, of as many samples as that of the inputs, such as 8:int64<10; "
            "such as the loss takes them if not said.",
        ),
    ] = None
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="What moves the weights there: sgd, momentum, adam or adamw, with options such as "
            "momentum:momentum=0.8; adam if not said.",
        ),
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(min=0.0, help="Its learning rate, unless the device names another: 0.001 if not said."),
    ] = None
    labels: Annotated[
        bool,
        typer.Option(
            "--labels",
            help="Show the labels to the synthesizers there (cDNI); decoupled stages learn little without.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Export(Request):
    """Write a cut model in another format.

    It is the inference graph, and shows the boundaries as nodes; with --form training it is a folder of
    graphs by which a device trains the model without PyTorch. The file, or the folder, is compared with
    PyTorch before it is put in its place; --dry-run does that in a temporary folder beside it.
    """

    name = "export"
    example = "dni-fx export dni_fx.demo:mlp --plan balanced:stages=3 -o model.onnx"
    work = "export"

    source: ModelRequest
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The .onnx file to write; for onnx-stages and --form training a folder.",
            show_default=False,
        ),
    ]
    form: Annotated[Form, typer.Option(help="What the model computes, or how it is trained.")] = (
        Form.INFERENCE
    )
    exporter: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="The format, such as onnx:opset=20 or onnx-stages; onnx or onnx-training if not said.",
            autocompletion=completing("exporters"),
        ),
    ] = None
    lesson: LessonRequest
    cut: CutRequest
    dry_run: DryRun = False
