"""What a forward does for its gradients alone: torch.export leaves it out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from dni_fx.errors import CaptureError

TENSOR_HOOKS = frozenset({"register_hook", "register_post_accumulate_grad_hook"})
"""What hangs code of the user's on the gradient of a tensor."""


class Backwards(TorchFunctionMode):
    """Notices what the forwards that run in it leave to the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[str, None] = {}

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if (name := getattr(func, "__name__", "")) in TENSOR_HOOKS:
            self._found[f"calls {name} on a tensor"] = None
        return func(*args, **(kwargs or {}))

    def look(self, returned: Any) -> None:
        """Take note of the user's autograd functions behind what a forward has returned."""
        for name in _functions_behind(returned):
            self._found[f"calls the autograd function {name}"] = None

    def check(self) -> None:
        """Do nothing if the gradients of a graph of single operations are those of the code.

        Raises:
            CaptureError: the code has a backward of its own.
        """
        if self._found:
            raise CaptureError(f"it {' and '.join(self._found)}, whose backward would be lost")


def _functions_behind(returned: Any) -> Iterator[str]:
    leaves = [leaf for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]
    waiting: list[Any] = [leaf.grad_fn for leaf in leaves]
    seen: set[Any] = {None}
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += [each for each, _ in node.next_functions]
        if isinstance(node, BackwardCFunction) and _is_users(function := _function_of(node)):
            yield function.__name__


def _function_of(node: BackwardCFunction) -> type:
    cls: Any = type(node)
    return cls._forward_cls


def _is_users(function: type) -> bool:
    """Whether it is not torch's own, nor one that runs code of the user's in the backward pass."""
    home = function.__module__
    return not home.startswith("torch.") or home == "torch.utils.checkpoint"
