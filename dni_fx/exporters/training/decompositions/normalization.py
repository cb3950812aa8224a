"""Normalization of values and of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions

aten = torch.ops.aten
_BATCH_NORM = get_decompositions([aten._native_batch_norm_legit_functional])


def weight_norm_backward(
    grad: Tensor, value: Tensor, length: Tensor, norms: Tensor, dim: int
) -> tuple[Tensor, Tensor]:
    """The gradients of `value` and of `length`, where the weight is `length * value / norms`.

    The norms are taken over all dimensions but `dim`. What of `grad` points along the value changes its
    length alone.
    """
    others = [axis for axis in range(value.dim()) if axis != dim]
    along = (grad * value).sum(others, keepdim=True) / norms
    return length / norms * (grad - value * (along / norms)), along.to(length.dtype)


def batch_norm_functional(
    value: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, ...]:
    """What batch norm gives, and its running numbers after it; one sample alone tells no variance."""
    made = _BATCH_NORM[aten._native_batch_norm_legit_functional.default]
    *found, after = made(value, weight, bias, mean, variance, training, momentum, eps)
    return (*found, _if_several(value, after, variance) if training else after)


def batch_norm(
    value: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    """What batch norm gives, its running numbers moved in place."""
    *found, mean_after, after = batch_norm_functional(value, weight, bias, mean, variance, *options)
    mean.copy_(mean_after)
    variance.copy_(after)
    return tuple(found)


def _if_several(value: Tensor, told: Tensor, before: Tensor) -> Tensor:
    """What is told of a variance, if there are several numbers; PyTorch refuses one, and a graph cannot."""
    count = value.numel() // value.shape[1]
    return torch.where(torch.full((), count) > 1, told, before)
