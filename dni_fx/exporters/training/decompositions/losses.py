"""The loss of class numbers: one that is below 0 is wrong, where ONNX would count it from the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions

aten = torch.ops.aten
_TORCHS_OWN = get_decompositions([aten.nll_loss_forward, aten.nll_loss2d_forward])


def _told(
    made: Callable[..., Any],
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignored: int,
) -> tuple[Tensor, Tensor]:
    """The loss, and the sum of the weights of classes; a number below 0 becomes one that is too high.

    Of that one, whoever runs the graph tells.
    """
    is_wrong = (target < 0) & (target != ignored)
    classes = scores.shape[1 if scores.dim() > 1 else 0]
    return made(scores, torch.where(is_wrong, classes, target), weight, reduction, ignored)


nll_loss_forward = partial(_told, _TORCHS_OWN[aten.nll_loss_forward.default])
nll_loss2d_forward = partial(_told, _TORCHS_OWN[aten.nll_loss2d_forward.default])
