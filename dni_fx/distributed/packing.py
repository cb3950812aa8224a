"""Trees of tensors and plain values as JSON text and bare tensors, so that nothing received is ever run."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from dni_fx.errors import StageError

_PLAIN = (str, int, float, bool, type(None))
_LISTS = {"list": list, "tuple": tuple, "set": set, "size": torch.Size}
_DICTS: dict[str, Callable[[list[Any]], Any]] = {
    "dict": dict,
    "ordered": OrderedDict,
    "counter": lambda pairs: Counter(dict(pairs)),
}
_KINDS: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    torch.Size: "size",
    dict: "dict",
    OrderedDict: "ordered",
    Counter: "counter",
}


class Blank(NamedTuple):
    """A tensor of which only type and shape are told: zeros without memory take its place."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def packed(tree: object) -> tuple[str, list[Tensor]]:
    """JSON text that stands for a tree, and its tensors, each once, as the text counts them.

    >>> packed({"x": (1, None)})
    ('["dict", [["x", ["tuple", [1, null]]]]]', [])

    Raises:
        StageError: there is something in it that JSON and tensors cannot tell.
    """
    tensors: dict[int, tuple[int, Tensor]] = {}
    text = json.dumps(_written(tree, tensors))
    return text, [tensor for _, tensor in tensors.values()]


def unpacked(text: str, tensors: Sequence[Tensor]) -> Any:
    """The tree that `packed` took apart.

    Raises:
        StageError: the text is not one that `packed` writes.
    """
    try:
        return _read(json.loads(text), tensors)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError):
        raise StageError("what another process has sent is no message of dni_fx.") from None


def dtype_named(name: str) -> torch.dtype:
    """The type of this name, as in `float32`.

    Raises:
        AttributeError: there is none.
    """
    found = vars(torch).get(name)
    if not isinstance(found, torch.dtype):
        raise AttributeError(name)
    return found


def _written(value: Any, tensors: dict[int, tuple[int, Tensor]]) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        return ["tensor", tensors.setdefault(id(value), (len(tensors), value))[0]]
    if isinstance(value, Blank):
        return ["blank", [_written(value.dtype, tensors), list(value.shape)]]
    if isinstance(value, torch.dtype):
        return ["dtype", str(value).removeprefix("torch.")]
    if isinstance(value, torch.device):
        return ["device", str(value)]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    kind = _KINDS.get(type(value))
    if kind in _DICTS:
        return [kind, [[_written(key, tensors), _written(each, tensors)] for key, each in value.items()]]
    if kind is not None:
        return [kind, [_written(each, tensors) for each in value]]
    raise StageError(
        f"a {type(value).__name__} cannot be sent to another process: tensors, numbers, texts, None, and "
        "lists, tuples and dictionaries of them can."
    )


def _read(written: Any, tensors: Sequence[Tensor]) -> Any:
    if type(written) in _PLAIN:
        return written
    kind, held = cast("list[Any]", written)
    if kind == "tensor":
        return tensors[held]
    if kind == "blank":
        return torch.zeros((), dtype=_read(held[0], tensors)).expand(held[1])
    if kind == "dtype":
        return dtype_named(held)
    if kind == "device":
        return torch.device(held)
    if kind == "bytes":
        return bytes.fromhex(held)
    if kind in _DICTS:
        return _DICTS[kind]([(_read(key, tensors), _read(each, tensors)) for key, each in held])
    return _LISTS[kind]([_read(each, tensors) for each in held])
