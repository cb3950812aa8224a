"""A module tree of its own over the tensors of another."""

from __future__ import annotations

import contextlib
import copy
import io
import threading
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from passes.errors import GraphError

M = TypeVar("M", bound=nn.Module)
Replace = Callable[[Tensor], Tensor]

_ATOMS = {bool, int, float, str, bytes, type(None), type}
_CONTAINERS = {dict, OrderedDict, list, set}
_COPYING = {
    *("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__"),
    *("__getnewargs__", "__getnewargs_ex__", "__slots__"),
}
_STATE = ("_parameters", "_buffers", "_non_persistent_buffers_set")
# What a copy of would be another thing, or cannot be made: two trees use the one that is there.
_RESOURCES: tuple[type, ...] = (
    torch.Generator,
    types.ModuleType,
    io.IOBase,
    type(threading.Lock()),
    type(threading.RLock()),
    *((torch.distributed.ProcessGroup,) if torch.distributed.is_available() else ()),
)


class ShellError(GraphError):
    """A model cannot be copied apart from its tensors."""


def shell(model: M, replace: Replace | None = None) -> M:
    """A copy of the module tree whose parameters and buffers are the very tensors of `model`.

    The dictionaries that hold them are shared too, so `.to()`, `load_state_dict(assign=True)` or the
    assignment of a buffer on either side is seen by both. Modules, hooks and training flags are the
    copy's own. Modules and tensors that are tied in `model` are tied in the copy; generators, process
    groups, locks and files are shared.

    With `replace`, every distinct tensor is mapped by it once instead, parameters stay parameters, and
    nothing is shared. `model` is left exactly as it was.

    Raises:
        ShellError: something in the model cannot be copied; says which attribute of which module.
    """
    originals = list(_modules(model))
    memo: dict[int, Any] = {}
    for module in originals:
        if isinstance(module, torch.jit.ScriptModule):
            raise ShellError(
                f"cannot copy {_path(model, module)}: it is a TorchScript module, whose tensors cannot be "
                "shared with a copy. Hand in the Python module that it was made from."
            )
        _share(module, memo, replace)
    prepared = dict(memo)
    try:
        with _copying(replace):
            _copy_plain([module for module in originals if _is_plain(type(module))], memo)
            copied = copy.deepcopy(model, memo)
            for module in originals:
                _complete(module, memo, replace is None)
    except Exception as error:
        where = _culprit(model, originals, prepared, replace)
        raise ShellError(
            f"cannot copy {where}: {type(error).__name__}: {error}. Give it a __deepcopy__, or move it out "
            "of the model."
        ) from error
    return copied


def _is_plain(cls: type[nn.Module]) -> bool:
    """Whether copies of the class's objects are made of copies of their attributes, and of nothing else."""
    return not any(
        name in _COPYING for base in cls.__mro__[: cls.__mro__.index(nn.Module)] for name in vars(base)
    )


def _copy_plain(modules: list[nn.Module], memo: dict[int, Any]) -> None:
    """Do what a deep copy would for modules of plain classes, in a fraction of its time."""
    twins = [object.__new__(type(module)) for module in modules]
    memo |= {id(module): twin for module, twin in zip(modules, twins, strict=True)}
    for module, twin in zip(modules, twins, strict=True):
        vars(twin).update({name: _copied(value, memo) for name, value in vars(module).items()})


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) in _ATOMS:
        return value
    if id(value) not in memo and type(value) in _CONTAINERS and not value:
        memo[id(value)] = type(value)()
    return copy.deepcopy(value, memo)


class _Tensors(TorchFunctionMode):
    """Deep copies of tensors that no module holds directly are shared, or replaced, as well."""

    def __init__(self, replace: Replace | None) -> None:
        super().__init__()
        self.replace = replace

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = _stand_in(tensor, self.replace)
        return memo[id(tensor)]


@contextlib.contextmanager
def _copying(replace: Replace | None) -> Generator[None, None, None]:
    with _Tensors(replace), warnings.catch_warnings():
        # Exported graphs hold tree specs, a class that torch's own copying makes it warn of.
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec", FutureWarning)
        yield


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    """Every module that can be reached: children, and those hidden from `children()` in plain attributes."""
    seen = {id(model)}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        yield module
        for found in _held(module):
            if isinstance(found, nn.Module) and id(found) not in seen:
                seen.add(id(found))
                waiting.append(found)


def _held(module: nn.Module) -> Iterator[Any]:
    """The module's attributes, and the items of those that are lists, tuples or dictionaries."""
    for value in vars(module).values():
        yield value
        yield from _items(value)


def _items(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[Any, Any]", value).values())
    if isinstance(value, list | tuple):
        return list(cast("list[Any]", value))
    return []


def _share(module: nn.Module, memo: dict[int, Any], replace: Replace | None) -> None:
    """Tell a coming deep copy what to take over instead of copying."""
    for found in _held(module):
        if isinstance(found, Tensor) and id(found) not in memo:
            memo[id(found)] = _stand_in(found, replace)
        elif isinstance(found, _RESOURCES):
            memo[id(found)] = found
    if replace is not None:
        return
    for name, value in vars(module).items():
        # A plain list of tensors is state as well: an LSTM reads its weights from one.
        mutable = isinstance(value, list | dict)
        if name in _STATE or (mutable and any(isinstance(item, Tensor) for item in _items(value))):
            memo[id(value)] = value


def _stand_in(tensor: Tensor, replace: Replace | None) -> Tensor:
    if replace is None:
        return tensor
    new = replace(tensor)
    if isinstance(tensor, nn.Parameter):
        if not isinstance(new, nn.Parameter):
            return nn.Parameter(new, tensor.requires_grad)
        new.requires_grad_(tensor.requires_grad)
    return new


def _complete(module: nn.Module, memo: dict[int, Any], shared: bool) -> None:
    """Restore what a class's own `__deepcopy__` left out (fx drops what its graph does not use)."""
    state = vars(memo[id(module)])
    children = vars(module)["_modules"].items()
    state["_modules"] = {name: copy.deepcopy(child, memo) for name, child in children}
    for name in _STATE:
        state[name] = vars(module)[name] if shared else copy.deepcopy(vars(module)[name], memo)


def _culprit(
    model: nn.Module, originals: list[nn.Module], memo: dict[int, Any], replace: Replace | None
) -> str:
    """The place of the deepest attribute that cannot be copied."""
    for module in reversed(originals):
        for name, value in vars(module).items():
            try:
                with _copying(replace):
                    copy.deepcopy(value, dict(memo))
            except Exception:
                if name != "_modules":
                    return f"{_path(model, module)}.{name} ({type(value).__name__})"
    return _path(model, model)


def _path(model: nn.Module, module: nn.Module) -> str:
    """Where in the model a module is, for messages."""
    names = (name for name, each in model.named_modules(remove_duplicate=False) if each is module)
    kind = type(module).__name__
    return next((name for name in names if name), kind if module is model else f"a hidden {kind}")
