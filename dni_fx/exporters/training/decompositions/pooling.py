"""The gradients of pooling layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_Sizes = Sequence[int]


def max_pool_backward(
    grad: Tensor,
    value: Tensor,
    kernel: _Sizes,
    stride: _Sizes,
    padding: _Sizes,
    dilation: _Sizes,
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """What has been the largest of its window has the gradient; that of several windows has their sum."""
    dims = len(kernel)
    lead, sizes = list(value.shape[:-dims]), list(value.shape[-dims:])
    zeros = torch.zeros_like(value).reshape(*lead, -1)
    flat = [each.reshape(*lead, -1) for each in (indices, grad)]
    return zeros.scatter_add(-1, *flat).reshape(*lead, *sizes)


def avg_pool2d_backward(
    grad: Tensor,
    value: Tensor,
    kernel: _Sizes,
    stride: _Sizes,
    padding: _Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """The gradient of each window, divided by its size, is spread over what it has seen."""
    kernel, padding = _pair(kernel), _pair(padding)
    stride = _pair(stride) if stride else kernel
    found = grad
    for axis in (0, 1):
        size, out = value.shape[axis - 2], grad.shape[axis - 2]
        rows: list[list[float]] = []
        for at in range(out):
            begin = at * stride[axis] - padding[axis]
            end = min(begin + kernel[axis], size + padding[axis])  # one that reaches beyond the padding ends
            inside = range(max(begin, 0), min(end, size))
            seen = 1 if divisor else end - begin if count_include_pad else len(inside)
            rows.append([1 / seen if each in inside else 0.0 for each in range(size)])
        found = spread(found, rows, axis)
    return found / divisor if divisor else found


def adaptive_avg_pool2d_backward(grad: Tensor, value: Tensor) -> Tensor:
    """The gradient of each window, divided by its size, is spread over what it has seen."""
    for axis in (0, 1):
        size, out = value.shape[axis - 2], grad.shape[axis - 2]
        windows = [range(at * size // out, -(-(at + 1) * size // out)) for at in range(out)]
        rows = [[1 / len(seen) if each in seen else 0.0 for each in range(size)] for seen in windows]
        grad = spread(grad, rows, axis)
    return grad


def spread(grad: Tensor, rows: Sequence[Sequence[float]], axis: int) -> Tensor:
    """Each element of an axis of images is spread as its row says.

    (..., out, width) to (..., size, width) on axis 0 and (..., height, out) to (..., height, size) on axis 1,
    with `out` rows of `size` numbers.
    """
    matrix = torch.tensor(rows, dtype=grad.dtype)
    return grad @ matrix if axis else matrix.transpose(0, 1) @ grad


def _pair(sizes: Any) -> _Sizes:
    return list(sizes) * 2 if len(sizes) == 1 else list(sizes)
