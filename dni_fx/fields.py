"""Data classes and named tuples as trees, without telling torch about the user's classes.

Registering a class with torch is for ever and for everybody, and its owner may want to do it in another
way. So what is registered is a stand-in, which turns into the user's object when a tree is put together.
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch.utils._pytree as pytree
from torch import nn

M = TypeVar("M", bound=nn.Module)

_OWN = "_forward_without_fields"


@dataclass(frozen=True)
class Kind:
    """A class and the attributes that its object had. In a file it is known by its name alone."""

    home: str
    names: tuple[str, ...]
    is_tuple: bool
    cls: type = field(compare=False, repr=False)

    def made(self, values: Iterable[Any]) -> Any:
        """An object of the class with these attributes; its code is not run again on what it once made."""
        if self.is_tuple:
            return tuple.__new__(self.cls, values)
        new = object.__new__(self.cls)
        for name, value in zip(self.names, values, strict=True):
            object.__setattr__(new, name, value)  # the class may be frozen
        return new


class Fields:
    """Stands for an object in a tree, and turns into it when the tree is put together."""

    def __init__(self, kind: Kind, values: tuple[Any, ...]) -> None:
        self.kind = kind
        self.values = values


def with_fields(value: Any) -> Any:
    """The tree with a `Fields` in the place of every data class and named tuple that torch does not know."""
    return pytree.tree_map(_as_fields, value, is_leaf=_is_named_tuple)


def returning_fields(tree: M) -> M:
    """The tree itself, whose forward from now on returns what `with_fields` makes of its result."""
    own = vars(tree).get("forward")

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        inner = vars(self).get(_OWN)
        return with_fields(inner(*args, **kwargs) if inner else type(self).forward(self, *args, **kwargs))

    signature = inspect.signature(tree.forward)
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    vars(forward)["__signature__"] = signature.replace(parameters=[me, *signature.parameters.values()])
    if own is not None:
        vars(tree)[_OWN] = own
    # Bound to the tree, so that a copy of the tree has a method that is bound to the copy.
    vars(tree)["forward"] = types.MethodType(forward, tree)
    return tree


def _as_fields(leaf: Any) -> Any:
    cls: type = type(leaf)
    if _is_named_tuple(leaf):
        names, values = tuple(cls._fields), tuple(leaf)
    elif dataclasses.is_dataclass(cls) and not issubclass(cls, _MORE_THAN_FIELDS):
        known = [each.name for each in dataclasses.fields(cls)]
        extra = [name for name in getattr(leaf, "__dict__", {}) if name not in known]
        names = tuple(name for name in [*known, *extra] if hasattr(leaf, name))
        values = tuple(getattr(leaf, name) for name in names)
    else:
        return leaf
    home = f"{cls.__module__}:{cls.__qualname__}"
    return Fields(Kind(home, names, isinstance(leaf, tuple), cls), tuple(map(with_fields, values)))


def _is_named_tuple(value: Any) -> bool:
    known = type(value) in pytree.SUPPORTED_NODES or type(value) in pytree.SUPPORTED_SERIALIZED_TYPES
    return pytree.is_namedtuple_instance(value) and not known


_MORE_THAN_FIELDS = (dict, list, tuple, set, str, int, float, type, BaseException, nn.Module)


def _flattened(fields: Fields) -> tuple[list[Any], Kind]:
    return list(fields.values), fields.kind


def _flattened_with_keys(fields: Fields) -> tuple[list[tuple[Any, Any]], Kind]:
    keys = map(pytree.GetAttrKey, fields.kind.names)
    return list(zip(keys, fields.values, strict=True)), fields.kind


def _put_together(values: Iterable[Any], kind: Kind) -> Any:
    return kind.made(values)


def _described(kind: Kind) -> list[Any]:
    return [kind.home, list(kind.names), kind.is_tuple]


def _looks_like(described: list[Any]) -> Kind:
    """A kind whose class has the name and the attributes of the one described; nothing is imported.

    Raises:
        TypeError, ValueError: these are no names.
    """
    home, names, is_tuple = str(described[0]), [str(name) for name in described[1]], bool(described[2])
    name = home.rpartition(":")[2].rpartition(".")[2]
    if is_tuple:
        cls = collections.namedtuple(name, names)  # pyright: ignore[reportUntypedNamedTuple]
    else:
        cls = dataclasses.make_dataclass(name, names, eq=False)
    cls.__module__, _, cls.__qualname__ = home.partition(":")  # so that it is of one kind with the original
    return Kind(home, tuple(names), is_tuple, cls)


pytree.register_pytree_node(
    Fields,
    _flattened,
    _put_together,
    serialized_type_name="dni_fx.fields.Fields",
    to_dumpable_context=_described,
    from_dumpable_context=_looks_like,
    flatten_with_keys_fn=_flattened_with_keys,
)
