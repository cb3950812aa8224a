"""The loss of class numbers: one that is below 0 is wrong, where ONNX would count it from the end."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._decomp import get_decompositions

_FORWARD = (torch.ops.aten.nll_loss_forward, torch.ops.aten.nll_loss2d_forward)
_TORCHS_OWN = get_decompositions(_FORWARD)


def nll_loss_forward(
    scores: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignored: int
) -> tuple[Tensor, Tensor]:
    """The loss of each sample, or of all, and the sum of the weights of classes."""
    made = _TORCHS_OWN[torch.ops.aten.nll_loss_forward.default]
    return made(scores, _told(scores, target, ignored), weight, reduction, ignored)


def nll_loss2d_forward(
    scores: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignored: int
) -> tuple[Tensor, Tensor]:
    """The same of pixels."""
    made = _TORCHS_OWN[torch.ops.aten.nll_loss2d_forward.default]
    return made(scores, _told(scores, target, ignored), weight, reduction, ignored)


def _told(scores: Tensor, target: Tensor, ignored: int) -> Tensor:
    """Class numbers, those below 0 as one too high, so that whoever runs the graph tells of it."""
    is_wrong = (target < 0) & (target != ignored)
    return torch.where(is_wrong, scores.shape[1 if scores.dim() > 1 else 0], target)
