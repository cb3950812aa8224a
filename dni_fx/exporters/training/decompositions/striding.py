"""Views by strides, where they are views that others can be said by; ONNX has no strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

_Sizes = Sequence[Any]


def as_strided(value: Tensor, size: _Sizes, stride: _Sizes, offset: Any = None) -> Any:
    """All elements of a tensor in their order, in another shape; where it is more the operator stays."""
    is_all = _fits(value.numel(), _product(size)) and _fits(offset or 0, 0)
    in_order = value.is_contiguous() and _goes_by(stride, size, _row_major(size))
    return value.reshape(size) if is_all and in_order else NotImplemented


def as_strided_(value: Tensor, size: _Sizes, stride: _Sizes, offset: Any = None) -> Any:
    """The tensor itself if only the strides of dimensions are new that have one element."""
    same = len(size) == value.dim() and all(map(_fits, size, value.shape)) and _fits(offset or 0, 0)
    return value if same and _goes_by(stride, size, value.stride()) else NotImplemented


def _goes_by(stride: _Sizes, size: _Sizes, other: _Sizes) -> bool:
    """Whether two strides lead to the same elements."""
    return all(
        _fits(count, 1) or _fits(one, two) for count, one, two in zip(size, stride, other, strict=True)
    )


def _row_major(size: _Sizes) -> list[Any]:
    return [_product(size[at + 1 :]) for at in range(len(size))]


def _product(size: _Sizes) -> Any:
    found: Any = 1
    for each in size:
        found = found * each
    return found


def _fits(one: Any, other: Any) -> bool:
    """Whether two sizes are equal, whatever the batch is."""
    return statically_known_true(one == other)
