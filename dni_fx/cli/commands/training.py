"""The options that say how a model is trained, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dni_fx.cli.completion import completing

CROSS_ENTROPY = "cross-entropy"


class OptimizerName(StrEnum):
    """What moves the weights."""

    ADAM = "adam"
    ADAMW = "adamw"
    SGD = "sgd"


class Precision(StrEnum):
    """What matrix products are computed in."""

    FULL = "full"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """What a model is trained on, and in which order."""

    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="A .npz file with x_train, y_train (and x_test, y_test) or x, y; a folder of images with "
            "one for each class, in train/, val/ and test/ if there are such; or package.module:function, "
            "which returns such arrays as a dictionary or tuple, batches, or a torch Dataset or two, the "
            "second to test on. With --carry, samples come as batch-size streams, each a stretch of them in "
            "their order.",
            show_default=False,
        ),
    ]
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Samples in a batch, where DATA is samples; 32 if not said."),
    ] = None
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of samples that are dictionaries, the entry that is the target; labels if not said. The "
            "others are inputs by name.",
            show_default=False,
        ),
    ] = ""
    image_size: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Height and width that images are scaled and cropped to, as in 32 or 24x32; that of the "
            "model's example if not said.",
            show_default=False,
        ),
    ] = ""
    seed: Annotated[int, typer.Option(help="Decides the order of the samples, and dropout.")] = 0


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """What a step of training is."""

    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the data, those of a resumed run included.")
    ] = 1
    lr: Annotated[float, typer.Option(min=0.0, help="The learning rate of the optimizer.")] = 1e-3
    optimizer: Annotated[OptimizerName, typer.Option(help="What moves the model's weights.")] = (
        OptimizerName.ADAM
    )
    loss: Annotated[
        str,
        typer.Option(
            metavar="LOSS",
            help="What to minimize, of outputs that are not carried to the next step: cross-entropy or mse "
            "of the first; or package.module:function, which takes all, and the target.",
        ),
    ] = CROSS_ENTROPY
    runtime: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="How the stages run, such as local; or distributed, where several processes are started by "
            "`torchrun --nproc-per-node 2 -m dni_fx train`.",
            autocompletion=completing("runtimes"),
        ),
    ] = "backprop"
    labels: Annotated[bool, typer.Option("--labels", help="Show the labels to the synthesizers (cDNI).")] = (
        False
    )
    clip: Annotated[
        float, typer.Option(min=0.0, help="Bound the norm of gradients: of a stage with local, else of all.")
    ] = 0.0
    accumulate: Annotated[
        int, typer.Option(min=1, help="Batches whose gradients are averaged for one step.")
    ] = 1
    precision: Annotated[Precision, typer.Option(help="What matrix products are computed in.")] = (
        Precision.FULL
    )


@dataclass(frozen=True, kw_only=True)
class KeepRequest:
    """What is kept of a run."""

    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Save the trained model to this .pt2 file."),
    ] = None
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Keep the state of the run in this file, after every epoch and on Ctrl-C."
        ),
    ] = None
    every: Annotated[int, typer.Option(min=0, help="Keep it after so many steps, too.")] = 0
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, if it is there.")] = (
        False
    )
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw how loss and synthesizers went: .png or .svg.")
    ] = None
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the figures of every step for TensorBoard.")
    ] = None
