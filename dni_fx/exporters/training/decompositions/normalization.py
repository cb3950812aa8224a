"""The gradients of weights that are normalized."""

from __future__ import annotations

from torch import Tensor


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
