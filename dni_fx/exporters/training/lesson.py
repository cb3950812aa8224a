"""What a device is to train a model for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dni_fx.exporters.training.moves import Move


@dataclass(frozen=True)
class Lesson:
    """A loss of outputs and targets that is to fall, by this optimizer at this rate.

    `args`, `kwargs` and `targets` are those of an example batch. With `labels_as_context`, synthesizers see
    the targets.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any
    loss: Callable[[Any, Any], Tensor]
    optimizer: Move
    rate: float
    labels_as_context: bool
