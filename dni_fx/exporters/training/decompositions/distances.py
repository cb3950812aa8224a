"""Distances between all pairs of rows, and their gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def cdist_forward(one: Tensor, other: Tensor, p: float, compute_mode: int | None = None) -> Tensor:
    """The p-norms of all differences: `(*batch, rows of one, rows of other)`."""
    apart = (one.unsqueeze(-2) - other.unsqueeze(-3)).abs()
    if p == 0:
        return (apart != 0).to(apart.dtype).sum(-1)
    if p == float("inf"):
        return apart.amax(-1)
    return apart.sum(-1) if p == 1 else apart.pow(p).sum(-1).pow(1 / p)


def cdist_backward(grad: Tensor, one: Tensor, other: Tensor, p: float, distances: Tensor) -> Tensor:
    """The gradient of the rows of the first one; where a distance is zero, nothing."""
    apart = one.unsqueeze(-2) - other.unsqueeze(-3)
    size, far, sign = apart.abs(), distances.unsqueeze(-1), apart.sign()
    if p == 0:
        return torch.zeros_like(one)
    if p == 1:
        moves = sign
    elif p == float("inf"):
        moves = torch.where(size == far, sign, 0)
    else:
        # Where nothing is apart, a power of zero below zero would be infinite.
        ratio = torch.where(size > 0, size / torch.where(far > 0, far, 1), 1).pow(p - 1)
        moves = torch.where(size > 0, sign * ratio, 0)
    return (grad.unsqueeze(-1) * moves).sum(-2)
