"""What a run minimizes, and how gradients are to become steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dni_fx.errors import StageError

Loss = Callable[[Any, Any], Tensor]
"""The model's outputs and the targets to a scalar."""

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Makes an optimizer for some of the parameters: all of them, or those of one stage."""

SchedulerFactory = Callable[[Optimizer], LRScheduler]
"""Makes what changes the learning rate of one optimizer."""


@dataclass(frozen=True)
class Recipe:
    """What to minimize, and how gradients become steps.

    Every optimizer has a scheduler of its own, which moves after each of its steps, or after each epoch with
    `per_epoch`. `clip` bounds the norm of the gradients of one optimizer; 0 is no bound. The gradients
    of `accumulate` batches are averaged before a step. `autocast` is the type that matrix products are
    computed in; with float16 the loss is scaled.
    """

    loss: Loss
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory | None = None
    per_epoch: bool = False
    clip: float = 0.0
    accumulate: int = 1
    autocast: torch.dtype | None = None

    def loss_of(self, outputs: Any, target: Any) -> Tensor:
        """The loss, a tensor with one element.

        Raises:
            StageError: what the user's function returned is something else.
        """
        found = cast("object", self.loss(outputs, target))
        if isinstance(found, Tensor) and found.numel() == 1:
            return found
        is_tensor = isinstance(found, Tensor)
        what = f"tensor of shape {tuple(found.shape)}" if is_tensor else type(found).__name__
        raise StageError(
            f"the loss function returned a {what}. It has to return a tensor with one number that torch has "
            "computed from the outputs: without .item(), and with a mean or a sum at the end."
        )

    def __post_init__(self) -> None:
        if self.accumulate < 1 or self.accumulate % 1:
            raise StageError(f"accumulate is a whole number above 0, not {self.accumulate}.")
        if not self.clip >= 0:
            raise StageError(f"clip is 0 or more, not {self.clip}.")
        if self.autocast not in (None, torch.float16, torch.bfloat16):
            raise StageError(f"autocast is torch.float16 or torch.bfloat16, not {self.autocast!r}.")
