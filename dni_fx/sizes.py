"""The sizes that a captured graph is right for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental import _config as symbolic_shapes
from torch.fx.experimental.symbolic_shapes import ShapeEnv

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """What the sizes of a graph's inputs must be; nothing, if both fields are empty.

    `fixed` holds a size for each dimension of each input, None where any will do. `condition` is what
    the model's own branches on sizes were found to ask of the others, in the form of torch's guards.
    """

    fixed: tuple[tuple[int | None, ...], ...] = ()
    condition: str = ""

    @property
    def is_open(self) -> bool:
        """Whether some size may vary."""
        return not self.fixed or any(None in sizes for sizes in self.fixed)

    def admit(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the graph is right for inputs of these sizes."""
        if not (self.fixed or self.condition):
            return True
        return _admit(self, tuple((tuple(each.shape), _strides(each)) for each in tensors))


def size_oblivious(on: bool = True) -> AbstractContextManager[None]:
    """Inside, torch traces sizes of 0 and 1 like any others, and notes in full what is asked of sizes."""
    settings: Any = symbolic_shapes
    return settings.patch(backed_size_oblivious=on)


def sizes_of(placeholders: Sequence[Tensor]) -> Sizes:
    """What torch.export found out about the sizes of its inputs, given as the fake tensors it ran on."""
    fixed = tuple(tuple(_number(size) for size in each.shape) for each in placeholders)
    symbolic = (size for each in placeholders for size in each.shape if isinstance(size, torch.SymInt))
    if (first := next(symbolic, None)) is None:
        return Sizes(fixed)
    condition = first.node.shape_env.produce_guards_expression(list(placeholders))
    return Sizes(fixed, condition or "")


def is_open(size: int | torch.SymInt) -> bool:
    """Whether a size of a fake tensor may still be any."""
    return _number(size) is None


def _number(size: int | torch.SymInt) -> int | None:
    """The size if it is known; one that `len(x)` or `int(...)` has settled is still of the symbolic type."""
    return size if isinstance(size, int) else size.node.maybe_as_int()


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Those of a tensor; where it is one number all over, which no order changes, those of a tensor in order.

    Processes have such a one in the place of each input that their stages do not read.
    """
    strides = tensor.stride()
    if tensor.dim() and not any(
        stride for stride, size in zip(strides, tensor.shape, strict=True) if size > 1
    ):
        return torch.empty(tensor.shape, device="meta").stride()
    return strides


@functools.lru_cache(maxsize=4096)
def _admit(sizes: Sizes, found: tuple[tuple[Shape, Shape], ...]) -> bool:
    for want, (have, _) in zip(sizes.fixed, found, strict=False):
        if len(want) != len(have) or any(a not in (None, b) for a, b in zip(want, have, strict=True)):
            return False
    if not sizes.condition:
        return True
    alike = [torch.empty_strided(shape, strides, device="meta") for shape, strides in found]
    return bool(ShapeEnv().evaluate_guards_expression(sizes.condition, alike))
