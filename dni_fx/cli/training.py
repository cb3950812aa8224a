"""The options that say how a model is trained."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer

from dni_fx.cli.losses import LossName
from dni_fx.runtimes import OptimizerFactory


class OptimizerName(StrEnum):
    """What moves the weights."""

    ADAM = "adam"
    ADAMW = "adamw"
    SGD = "sgd"

    def factory(self, lr: float) -> OptimizerFactory:
        """Makes one with this learning rate."""
        known = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        return lambda parameters: known[self.value](parameters, lr=lr)


class Precision(StrEnum):
    """What matrix products are computed in."""

    FULL = "full"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @property
    def dtype(self) -> torch.dtype | None:
        """The type for autocast; None leaves everything as it is."""
        return None if self is Precision.FULL else getattr(torch, self.value)


DataText = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="A .npz file with x_train, y_train (and x_test, y_test) or x, y; or package.module:function, "
        "which returns such arrays as a dictionary or tuple, or batches.",
        show_default=False,
    ),
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the data, those of a resumed run included.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples in a batch, where DATA is arrays.")]
Rate = Annotated[float, typer.Option(min=0.0, help="The learning rate of the optimizer.")]
Optimizer = Annotated[OptimizerName, typer.Option(help="What moves the model's weights.")]
Loss = Annotated[LossName, typer.Option(help="What to minimize.")]
RuntimeText = Annotated[str, typer.Option(metavar="SPEC", help="How the stages run, such as local.")]
Labels = Annotated[bool, typer.Option("--labels", help="Show the labels to the synthesizers (cDNI).")]
Clip = Annotated[
    float, typer.Option(min=0.0, help="Bound the norm of gradients: of a stage with local, else of all.")
]
Accumulate = Annotated[int, typer.Option(min=1, help="Batches whose gradients are averaged for one step.")]
PrecisionName = Annotated[Precision, typer.Option(help="What matrix products are computed in.")]
Seed = Annotated[int, typer.Option(help="Decides the order of the samples, and dropout.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Save the trained model to this .pt2 file."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Keep the state of the run in this file, after every epoch and on Ctrl-C."
    ),
]
Every = Annotated[int, typer.Option(min=0, help="Keep it after so many steps, too.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, if it is there.")]
Plot = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Draw how loss and synthesizers went: .png or .svg.")
]
Tensorboard = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write the figures of every step for TensorBoard.")
]
