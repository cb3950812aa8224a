"""The gradients of pooling layers."""

from __future__ import annotations

from collections.abc import Sequence

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
    return _largest(grad, value, indices, len(kernel))


def adaptive_max_pool2d(value: Tensor, output_size: _Sizes) -> tuple[Tensor, Tensor]:
    """The largest of each window and where in the image it is, rows of the image one after another."""
    height, width = (int(size) for size in value.shape[-2:])
    rows, columns = (_windows(size, int(out)) for size, out in zip((height, width), output_size, strict=True))
    seen = value[..., rows[:, None, :, None], columns[None, :, None, :]].flatten(
        -2
    )  # (..., out, out, window)
    # What fills up a window that is smaller than the widest is its first element again.
    best = seen.argmax(-1, keepdim=True)
    places = (rows[:, None, :, None] * width + columns[None, :, None, :]).flatten(-2)
    return seen.gather(-1, best).squeeze(-1), places.expand(seen.shape).gather(-1, best).squeeze(-1)


def _windows(size: int, out: int) -> Tensor:
    """The elements of each window of an axis: `(out, widest)`, the first again where there are fewer."""
    found = _seen(size, out)
    widest = max(map(len, found))
    return torch.tensor([[*each, *[each[0]] * (widest - len(each))] for each in found])


def _seen(size: int, out: int) -> list[range]:
    """What each window of an adaptive pool sees along an axis."""
    return [range(at * size // out, -(-(at + 1) * size // out)) for at in range(out)]


def adaptive_max_pool2d_backward(grad: Tensor, value: Tensor, indices: Tensor) -> Tensor:
    """What has been the largest of its window has the gradient; that of several windows has their sum."""
    return _largest(grad, value, indices, 2)


def _largest(grad: Tensor, value: Tensor, indices: Tensor, dims: int) -> Tensor:
    """The gradients at these places of the last dimensions."""
    lead, sizes = list(value.shape[:-dims]), list(value.shape[-dims:])
    flat = [each.reshape(*lead, -1) for each in (indices, grad)]
    return torch.zeros_like(value).reshape(*lead, -1).scatter_add(-1, *flat).reshape(*lead, *sizes)


def avg_pool_backward(
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
    dims = len(kernel)
    for axis, width, step, pad in zip(range(-dims, 0), kernel, stride or kernel, padding, strict=True):
        size, out = value.shape[axis], grad.shape[axis]
        rows: list[list[float]] = []
        for at in range(out):
            begin = at * step - pad
            end = min(begin + width, size + pad)  # one that reaches beyond the padding ends
            inside = range(max(begin, 0), min(end, size))
            seen = 1 if divisor else end - begin if count_include_pad else len(inside)
            rows.append([1 / seen if each in inside else 0.0 for each in range(size)])
        grad = spread(grad, rows, axis)
    return grad / divisor if divisor else grad


def adaptive_avg_pool2d_backward(grad: Tensor, value: Tensor) -> Tensor:
    """The gradient of each window, divided by its size, is spread over what it has seen."""
    return _adaptive_avg_pool_backward(grad, value, 2)


def adaptive_avg_pool3d_backward(grad: Tensor, value: Tensor) -> Tensor:
    """The gradient of each window, divided by its size, is spread over what it has seen."""
    return _adaptive_avg_pool_backward(grad, value, 3)


def _adaptive_avg_pool_backward(grad: Tensor, value: Tensor, dims: int) -> Tensor:
    for axis in range(-dims, 0):
        size, out = value.shape[axis], grad.shape[axis]
        windows = _seen(size, out)
        rows = [[1 / len(seen) if each in seen else 0.0 for each in range(size)] for seen in windows]
        grad = spread(grad, rows, axis)
    return grad


def spread(grad: Tensor, rows: Sequence[Sequence[float]], axis: int) -> Tensor:
    """Each element of an axis is spread as its row says: (..., out, ...) to (..., size, ...).

    There are `out` rows of `size` numbers.
    """
    matrix = torch.tensor(rows, dtype=grad.dtype)
    return (grad.transpose(axis, -1) @ matrix).transpose(axis, -1)
