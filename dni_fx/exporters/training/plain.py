"""What stages hand on that is no tensor: sizes, which follow the batch, and what is always the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor


@dataclass(frozen=True)
class Plain:
    """A number or anything else. A size is so many times that of a tensor that is read beside it.

    It is `value`, or where `tensor` is named what that has along `axis`, multiplied by `times` and
    divided by `over`. It `is_fixed` if it is a size that varies, and no tensor tells it.
    """

    value: Any
    tensor: str = ""
    axis: int = 0
    times: int = 1
    over: int = 1
    is_fixed: bool = False

    def of(self, given: Mapping[str, Tensor]) -> Any:
        """What it is for these tensors."""
        if not self.tensor:
            return self.value
        size = given[self.tensor].shape[self.axis]
        return size if self.times == self.over else size * self.times // self.over


def plain(value: Any, fake: Any, beside: Mapping[str, Tensor]) -> Plain:
    """What a value is by tensors read beside it, which like `fake` say how sizes follow the batch."""
    if not isinstance(fake, torch.SymInt):
        return Plain(value, is_fixed=any(map(_varies, pytree.tree_leaves(fake))))
    for name, tensor in beside.items():
        for axis, size in enumerate(tensor.shape):
            if isinstance(size, torch.SymInt):
                ratio = (fake.node.expr / size.node.expr).simplify()
                if ratio.is_Rational:
                    return Plain(value, name, axis, int(ratio.p), int(ratio.q))
    return Plain(value, is_fixed=True)


def _varies(fake: Any) -> bool:
    """Whether something follows a size that varies."""
    is_symbol = isinstance(fake, torch.SymInt | torch.SymFloat | torch.SymBool)
    return is_symbol and bool(fake.node.expr.free_symbols)
