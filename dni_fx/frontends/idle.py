"""Whether hooks are idle: a run of the model leaves all that they can reach as it was."""

from __future__ import annotations

import contextlib
import functools
import types
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextvars import ContextVar
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor, nn

from dni_fx.frontends.side_effects import attributes_of, is_same
from dni_fx.hooks import behind_guard, guarded_modules

_DEEP, _MANY = 8, 20_000
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)


@contextlib.contextmanager
def watched_hooks(tree: nn.Module) -> Generator[None]:
    """Inside, the tree runs; afterwards the guards in it know whether their hooks are idle."""
    guarded = list(guarded_modules(tree))
    reached = [_Reach(module) for _, module in guarded]
    for guard, _ in guarded:
        guard.is_watching, guard.ran = True, False
    try:
        yield
    finally:
        for guard, _ in guarded:
            guard.is_watching = False
    for (guard, _), reach in zip(guarded, reached, strict=True):
        if guard.ran:
            guard.is_idle = guard.is_idle is not False and not guard.wrote and reach.is_as_it_was()


class _Reach:
    """What the hooks of a module can reach, as it is now."""

    def __init__(self, module: nn.Module) -> None:
        self._roots = [module, *behind_guard(module)]
        self._before = self._found()

    def is_as_it_was(self) -> bool:
        """Whether all of it is what it was; not, if there is too much of it to tell."""
        now = self._found()
        return len(now) == len(self._before) < _MANY and all(map(is_same, self._before, now))

    def _found(self) -> list[Any]:
        return list(islice(_walk(self._roots), _MANY))


def _walk(roots: list[Any]) -> Iterator[tuple[Any, ...]]:
    """What there is to compare of every object in reach, the nearest first."""
    seen: set[int] = set()
    waiting = deque((root, frozenset[str](), 0, False) for root in roots)
    while waiting:
        value, names, depth, in_module = waiting.popleft()
        yield (value, *_size_of(value))
        is_module = isinstance(value, nn.Module)
        if id(value) in seen or depth == _DEEP or (is_module and in_module):
            continue
        seen.add(id(value))
        held, names = _held(value, names)
        waiting.extend((each, names, depth + 1, in_module or is_module) for each in held)


def _size_of(value: Any) -> tuple[Any, ...]:
    """What tells an object from itself after it was changed in place."""
    if isinstance(value, Tensor):
        return () if value.is_inference() else (value._version,)
    if isinstance(value, _CONTAINERS):
        return (len(value),)
    if isinstance(value, np.ndarray):
        return (value.tobytes(),)
    return (repr(value),) if type(value).__module__ == "itertools" else ()


def _held(value: Any, names: frozenset[str]) -> tuple[list[Any], frozenset[str]]:
    """What an object holds, and the names by which the code it belongs to asks for attributes."""
    if isinstance(value, types.FunctionType):
        return _held_by_code(value)
    if isinstance(value, types.ModuleType):
        return [each for name, each in vars(value).items() if name in names], names
    return list(_parts_of(value)), names


def _parts_of(value: Any) -> Iterable[Any]:
    match value:
        case Tensor() | np.ndarray() | int() | float() | complex() | str() | bytes():
            return ()
        case nn.Module():
            return attributes_of(value).values()
        case dict():
            return [*value, *value.values()]
        case list() | tuple() | set() | frozenset() | deque():
            return value
        case ContextVar():
            return (value.get(None),)
        case functools.partial():
            return (value.func, *value.args, *value.keywords.values())
        case types.MethodType():
            return (value.__self__, value.__func__)
        case type():
            return vars(value).values() if _is_users(value) and not issubclass(value, nn.Module) else ()
        case _:
            return _fields_of(value)


def _held_by_code(function: types.FunctionType) -> tuple[list[Any], frozenset[str]]:
    if not _is_users(function):
        return [], frozenset()
    names = frozenset(_names_in(function.__code__))
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    named = [each for name, each in function.__globals__.items() if name in names]
    return [*cells, *vars(function).values(), *(function.__defaults__ or ()), *named], names


def _fields_of(value: Any) -> list[Any]:
    """The attributes of an object, and its class, which may hold some for all."""
    slots = [name for cls in type(value).__mro__ for name in vars(cls).get("__slots__", ())]
    fields = [getattr(value, name, None) for name in slots if not name.startswith("__")]
    call = [vars(type(value))["__call__"]] if "__call__" in vars(type(value)) else []
    return [*fields, *getattr(value, "__dict__", {}).values(), type(value), *call]


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names_in(each)


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _is_users(value: Any) -> bool:
    """Whether code may hold state of the user's: not torch's own, nor the interpreter's."""
    home = str(getattr(value, "__module__", "")).partition(".")[0]
    return home not in {"torch", "builtins", "dni_fx"}
