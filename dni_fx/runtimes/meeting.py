"""Lets tensors of several devices meet in one operation."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from dni_fx.stage import moved

_APART = {
    *("copy_", "set_", "to", "type_as", "backward", "grad", "__get__", "__set__"),
    *("expand_as", "reshape_as", "view_as", "result_type", "is_same_size", "is_set_to"),
    *("tensor_split", "_pack_padded_sequence"),
}
"""What takes tensors of different devices as it is: it copies, looks at sizes, or wants some on the CPU."""
_LISTS = ("_foreach", "_fused", "_amp")
"""How names begin of what optimizers do to lists of tensors, each with its own device."""

_IN_PLACE = re.compile(r"\w*[^_]_|__i\w+__|__setitem__")
"""What writes to its first operand."""


class Meeting(TorchFunctionMode):
    """Inside, operations on tensors of several of these devices run on one of them.

    It is that of the first operand if it is written to; else that of the parameters among them, and of
    several the one that comes last in `devices`. The others are moved there, and their gradients back. A
    tensor on any other device was put there by the model, and is left alone. Backward passes are not in it:
    in them, each operation has what it needs on its own device.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        super().__init__()
        self._rank = {device: at for at, device in enumerate(devices)}

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if not kwargs and len(args) == 1 and isinstance(args[0], Tensor):
            return func(*args)  # most calls ask a tensor for its shape, its type and the like
        kwargs = kwargs or {}
        found = [*_tensors(args), *_tensors(kwargs.values())]
        if len(found) > 1:
            found = [each for each in found if each.device in self._rank]
            if len({each.device for each in found}) > 1:
                args, kwargs = self._together(func, found, args, kwargs)
        return func(*args, **kwargs)

    @contextmanager
    def left(self) -> Generator[None]:
        """Inside, every operation is as it would be without the mode, which was entered last."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def _together(
        self, func: Callable[..., Any], found: Sequence[Tensor], args: Any, kwargs: Mapping[str, Any]
    ) -> tuple[Any, Mapping[str, Any]]:
        """The arguments on one device."""
        name = func.__name__.partition(".")[0]  # of an operator, the overload follows
        if name in _APART or name.startswith(_LISTS):
            return args, kwargs
        if written := [*_tensors([kwargs.get("out")])]:
            place = written[0].device
        elif _IN_PLACE.fullmatch(name):
            place = found[0].device
        else:
            owners = [each for each in found if isinstance(each, nn.Parameter)] or found
            place = max((each.device for each in owners), key=self._rank.__getitem__)
        return pytree.tree_map_only(Tensor, partial(self._moved, place), (args, kwargs))

    def _moved(self, place: torch.device, tensor: Tensor) -> Tensor:
        return moved(tensor, place) if tensor.device in self._rank else tensor


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among these values, and in lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
