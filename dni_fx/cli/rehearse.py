"""Meet what would stop a run before hours of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dni_fx.cli import losses
from dni_fx.cli.arrays import Arrays
from dni_fx.cli.commands.training import KeepRequest
from dni_fx.cli.data import Data
from dni_fx.cli.shapes import dtype_of
from dni_fx.decoupled import Decoupled
from dni_fx.errors import CaptureError, DniError
from dni_fx.modes import eval_mode
from dni_fx.runtimes import Loss
from dni_fx.training.batches import Batch, device_of
from dni_fx.training.callbacks import Callback
from dni_fx.training.checkpoint import is_there
from dni_fx.training.stream import Stream
from dni_fx.training.trainer import Trainer
from dni_fx.warning import warn


def judge_all(cut: Decoupled, data: Data, text: str, loss: Loss, has_classes: bool) -> None:
    """Compute the loss of a few samples of each part, and look at every label.

    Raises:
        DniError: the model cannot take the data, or a label is none of its classes.
    """
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    for part, batches in parts.items():
        if not isinstance(batches, Arrays):
            continue  # batches of the user's own may be costly to read, or be read only once
        try:
            with eval_mode(cut), torch.no_grad():
                few = Stream(cut).given(Batch.of((batches.x[:2], batches.y[:2]), device_of(cut)))
                with few.explained(cut):
                    outputs = cut(*few.args, **few.kwargs)
                if has_classes:
                    where = f"the {part} data of {text}"
                    _warn_of_few(data, text, losses.classes_of(losses.free_of(cut, outputs), few.target))
                    losses.check_labels(losses.free_of(cut, outputs), few.target, batches.y, where)
                loss(outputs, few.target)
        except CaptureError:
            return  # a file of the training graph alone
        except (RuntimeError, IndexError) as error:
            line = next(iter(str(error).strip().splitlines()), "")
            types = _types_apart(cut, batches.x[:1])
            raise DniError(f"the model cannot take the {part} data of {text}: {line}{types}") from error


def _warn_of_few(data: Data, text: str, classes: int) -> None:
    if 0 < len(data.classes) < classes:
        warn(
            f"the model tells {classes} classes apart, and {text} has {len(data.classes)} "
            f"({', '.join(data.classes)}): the others are never right."
        )


def take_one_step(
    cut: Decoupled, data: Data, keep: KeepRequest, options: Mapping[str, Any], watch: Callback
) -> None:
    """Train on the first batch alone, from the checkpoint if there is one to go on from.

    Raises:
        DniError: the run would end here.
    """
    trainer = Trainer(cut, callbacks=[watch], **options)  # as many as a run has
    if keep.resume and keep.checkpoint is not None and is_there(keep.checkpoint):
        trainer.load(keep.checkpoint)
    for batch in data.train:
        trainer.step(batch)
        return
    raise DniError("the data have no batch to train on.")


def _types_apart(cut: Decoupled, inputs: Tensor) -> str:
    """What tells the type of inputs from that of the model, if they are not the same."""
    found, needed = (str(each).removeprefix("torch.") for each in (inputs.dtype, dtype_of(cut)))
    return "" if found == needed else f" (the inputs are {found}, and the model computes with {needed})"
