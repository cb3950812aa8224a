"""What a device is to train a model for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor

from dni_fx.errors import ExportError
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

    def check(self) -> None:
        """Do nothing if graphs can be given such targets.

        Raises:
            ExportError: they cannot.
        """
        leaves: list[Any] = pytree.tree_leaves(self.targets)
        if odd := [each for each in leaves if not isinstance(each, Tensor)]:
            raise ExportError(
                f"targets are tensors, in a dictionary or a tuple if there are several, and one is "
                f"{type(odd[0]).__name__}: make it a tensor, or say () for a loss that looks at none."
            )
        if self.labels_as_context and len(leaves) != 1:
            raise ExportError(
                f"labels are the context where there is one tensor of targets, not {len(leaves)}."
            )
