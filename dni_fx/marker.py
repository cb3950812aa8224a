"""The operator `dni_fx::interface`: how a boundary is visible in a file.

An autograd function is dropped in silence when a graph is exported; a custom operator stays.
Its value is a copy of the input, since an operator may not return its input itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from passes.boundary import value_names


@torch.library.custom_op("dni_fx::interface", mutates_args=())
def interface(value: Tensor, boundary: str) -> Tensor:
    """The value, copied: the boundary's name is there for whoever reads the graph."""
    return value.clone()


@interface.register_fake
def _(value: Tensor, boundary: str) -> Tensor:
    return torch.empty_like(value)


interface.register_autograd(lambda ctx, grad: (grad, None))


class Marker(nn.Module):
    """Fills a boundary when the graph is written to a file: a call of `dni_fx::interface` for each value."""

    def __init__(self, boundary: str) -> None:
        super().__init__()
        self.boundary = boundary

    @override
    def forward(self, *values: Tensor) -> Any:
        names = value_names(self.boundary, len(values))
        (marked, *others) = map(torch.ops.dni_fx.interface, values, names)
        return (marked, *others) if others else marked
