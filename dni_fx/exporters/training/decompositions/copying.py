"""Copies into a tensor of what has fewer elements, which ONNX would leave with too few."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def copy(into: Tensor, of: Tensor, non_blocking: bool = False) -> Tensor:
    """A new tensor of the shape and type of `into`, filled by `of`."""
    return of.to(into.dtype).expand_as(into).clone()


def copy_(into: Tensor, of: Tensor, non_blocking: bool = False) -> Any:
    """`into`, filled by `of`; the operator stays as it is where both have one shape."""
    return NotImplemented if into.shape == of.shape else into.copy_(of.expand_as(into))
