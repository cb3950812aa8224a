"""What a forward does beside computing: a graph would leave it out, or do it once for all."""

from __future__ import annotations

import contextlib
import sys
import types
from collections import deque
from collections.abc import Generator, Sequence, Sized
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from dni_fx.errors import CaptureError
from dni_fx.randomness import random_state

# A recurrent layer restores its lists of weights where these have been swapped.
_REGISTRIES = {*vars(nn.Module()), "_flat_weights", "_flat_weight_refs"}


_CONTAINERS = (list, tuple, dict, set, deque)
_OTHERS = sys.stdlib_module_names | {"torch"}  # whose objects keep caches and counts of their own
_DEEP = 3
_COMPARABLE = (bytes, int, float, str, list, dict, set)


class SideEffectError(CaptureError):
    """Code that is to be traced sets attributes of a module."""


class SideEffects:
    """Notices what the code that runs between its making and `check` has done to a module."""

    def __init__(self, module: nn.Module, below: bool = False) -> None:
        self._modules = list(module.modules()) if below else [module]
        self._random = random_state()
        self._before = [_all_of(each) for each in self._modules]
        self._noticed: set[str] = set()

    @contextlib.contextmanager
    def noticed(self) -> Generator[None]:
        """What is set inside is noticed even if it is set back before `check`."""
        before = [_contents(each) for each in self._modules]
        yield
        self._noticed |= _changed(before, [_contents(each) for each in self._modules])

    def check(self, with_torch: bool = True) -> None:
        """Do nothing if nothing happened that a graph would not repeat.

        Without `with_torch`, what drew from torch's generators is known to be in the graph.

        Raises:
            CaptureError: random numbers were drawn outside of any operation, or attributes were set.
        """
        drawn = slice(None) if with_torch else slice(1, 4)
        if self._random[drawn] != random_state()[drawn]:
            raise CaptureError("it draws random numbers that no traced operation makes")
        changed = self._noticed | _changed(self._before, [_all_of(each) for each in self._modules])
        if changed := {name for name in changed if not name.startswith("_tensor_constant")}:
            raise SideEffectError(
                f"it sets {', '.join(sorted(changed))}, which a graph would do once for all"
            )


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """The module's own buffers and attributes, containers with their length, to compare with later."""
    return _plain(module) | vars(module)["_buffers"]


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: (value, len(cast("Sized", value))) if isinstance(value, list | dict | set) else value
        for name, value in vars(module).items()
        if name not in _REGISTRIES
    }


def _all_of(module: nn.Module) -> dict[str, Any]:
    return _contents(module) | vars(module)["_buffers"]


def _contents(module: nn.Module) -> dict[str, Any]:
    """The module's own attributes with what they hold, as it is now."""
    return {name: _content(value, _DEEP) for name, value in vars(module).items() if name not in _REGISTRIES}


def _content(value: Any, depth: int) -> Any:
    """What tells an object from itself after it was changed in place; never what modules hold."""
    if isinstance(value, Tensor):
        return value if value.is_inference() else (value, value._version)
    if isinstance(value, np.ndarray):
        return (value, value.tobytes())
    if depth and (parts := _parts_of(value)) is not None:
        return (value, *[_content(each, depth - 1) for each in parts])
    return (value, len(value)) if isinstance(value, _CONTAINERS) else value


def _parts_of(value: Any) -> list[Any] | None:
    if isinstance(value, _CONTAINERS):
        pairs = cast("dict[Any, Any]", value)
        return [*pairs, *pairs.values()] if isinstance(value, dict) else list(cast("list[Any]", value))
    if isinstance(value, types.SimpleNamespace):
        return [*vars(value).items()]
    is_open = not isinstance(value, nn.Module | type | types.FunctionType | types.ModuleType)
    if is_open and type(value).__module__.partition(".")[0] not in _OTHERS:
        return [*getattr(value, "__dict__", {}).items()]
    return None


def _changed(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> set[str]:
    """The names of attributes that are not what they were."""
    return {
        name
        for old, new in zip(before, after, strict=True)
        for name in old.keys() | new.keys()
        if not is_same(old.get(name), new.get(name))
    }


def is_same(a: Any, b: Any) -> bool:
    """Whether both are one object, equal numbers or texts, or tuples of such."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(is_same, a, b))
    if a is b or not (isinstance(a, _COMPARABLE) and type(a) is type(b)):
        return a is b
    try:
        return bool(a == b)
    except (RuntimeError, TypeError, ValueError):  # tensors inside, of which nobody asks for equality
        return False
