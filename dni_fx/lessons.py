"""What a device is to train, written for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from dni_fx.assembly import Inputs, example_of
from dni_fx.decoupled import Decoupled
from dni_fx.exporters import TRAINING_EXPORTERS
from dni_fx.exporters.base import Written
from dni_fx.exporters.onnx_training import OnnxTraining
from dni_fx.exporters.training.lesson import Lesson
from dni_fx.exporters.training.moves import MOVES, Move
from passes import parse


def export_training(
    cut: Decoupled,
    path: str | os.PathLike[str],
    *,
    targets: Any,
    loss: Callable[[Any, Any], Tensor],
    inputs: Inputs | None = None,
    optimizer: str | Move = "adam",
    rate: float = 1e-3,
    labels_as_context: bool = False,
    exporter: str | OnnxTraining = "onnx-training",
) -> Written:
    """Write a folder by which `dni_fx.device` trains a cut model, with onnxruntime and without PyTorch.

    `targets` are those of the example, which is `inputs` or what the model was cut with. `optimizer` is sgd,
    momentum, adam or adamw, with options such as `momentum:momentum=0.8`.

        dni_fx.export_training(cut, "digits", inputs=(x,), targets=y, loss=F.cross_entropy)

    Raises:
        ExportError: the step cannot be written as ONNX, or a file computes something else.
        FileError: the path cannot be written.
    """
    chosen = parse(exporter, TRAINING_EXPORTERS) if isinstance(exporter, str) else exporter
    move = parse(optimizer, MOVES) if isinstance(optimizer, str) else optimizer
    args, kwargs = example_of(cut, inputs).arguments()
    return chosen.write(cut, Path(path), Lesson(args, kwargs, targets, loss, move, rate, labels_as_context))
