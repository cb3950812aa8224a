"""The gradients of a convolution, by convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_Sizes = Sequence[int]


def convolution_backward(
    grad: Tensor,
    value: Tensor,
    weight: Tensor,
    bias_sizes: _Sizes | None,
    stride: _Sizes,
    padding: _Sizes,
    dilation: _Sizes,
    transposed: bool,
    output_padding: _Sizes,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of the value `(batch, channels, *sizes)`, the weight and the bias; None if not wanted.

    That of the value is a transposed convolution of `grad` with the weight, and that of the weight the
    convolution of the value with `grad`, batch and channels having changed places. A transposed
    convolution is one whose value and gradient have changed places.
    """
    of_value = of_weight = of_bias = None
    if wanted[0]:
        of_value = _of_value(grad, value, weight, stride, padding, dilation, transposed, groups)
    if wanted[1]:
        inside, outside = (grad, value) if transposed else (value, grad)
        of_weight = _of_weight(inside, outside, weight, stride, padding, dilation, groups)
    if wanted[2]:
        of_bias = grad.sum([0, *range(2, value.dim())])
    return of_value, of_weight, of_bias


def _of_value(
    grad: Tensor,
    value: Tensor,
    weight: Tensor,
    stride: _Sizes,
    padding: _Sizes,
    dilation: _Sizes,
    transposed: bool,
    groups: int,
) -> Tensor:
    sizes, options = list(value.shape[2:]), (stride, padding, dilation)
    if transposed:
        none = [0] * len(sizes)
        return _cut(torch.ops.aten.convolution(grad, weight, None, *options, False, none, groups), sizes)
    parts = zip(sizes, grad.shape[2:], *options, weight.shape[2:], strict=True)
    rest = [size - ((out - 1) * s - 2 * p + d * (k - 1) + 1) for size, out, s, p, d, k in parts]
    return torch.ops.aten.convolution(grad, weight, None, *options, True, rest, groups)


def _of_weight(
    value: Tensor,
    grad: Tensor,
    weight: Tensor,
    stride: _Sizes,
    padding: _Sizes,
    dilation: _Sizes,
    groups: int,
) -> Tensor:
    """The gradient of the weight of a convolution from `value` to what has this gradient."""
    kernel = list(weight.shape[2:])
    found = torch.ops.aten.convolution(
        _batch_inside(value, groups),
        grad.transpose(0, 1),
        None,
        dilation,
        padding,
        stride,
        False,
        [0] * len(kernel),
        groups,
    )
    return _cut(found, kernel).transpose(0, 1)


def _batch_inside(value: Tensor, groups: int) -> Tensor:
    """(batch, groups * channels, *sizes) to (channels, groups * batch, *sizes)."""
    if groups == 1:
        return value.transpose(0, 1)
    batch, channels, *sizes = value.shape
    apart = value.reshape(batch, groups, channels // groups, *sizes)
    return apart.transpose(0, 2).reshape(channels // groups, groups * batch, *sizes)


def _cut(found: Tensor, sizes: _Sizes) -> Tensor:
    """The first of each size: what a stride did not come to is at the end."""
    for axis, size in enumerate(sizes, 2):
        found = found.narrow(axis, 0, size)
    return found
