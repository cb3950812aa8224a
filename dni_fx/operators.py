"""What the graph in a file may call: operators of torch, and a little arithmetic on sizes."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch._C import _dispatch_get_all_op_names as all_operators  # pyright: ignore[reportPrivateUsage]
from torch._ops import OpOverload

LIBRARIES = frozenset({"aten", "dni_fx", "prims", "quantized_decomposed", "torchvision"})
"""Whose operators only compute."""

_OPERATOR = re.compile(
    r"torch\.ops\.([A-Za-z]\w*)\.(_?[A-Za-z]\w*|__i?(?:and|or|xor|lshift|rshift)__)\.([A-Za-z]\w*)", re.ASCII
)
_TOUCHES_FILES = frozenset({"from_file", "save"})
_ON_SIZES = re.compile(
    r"torch\._?sym_(not|int|float|ite|max|min|sqrt)|math\.(trunc|ceil|floor|sqrt)|_operator\.(eq|ne|le|ge|lt|gt"
    r"|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_|lshift|rshift|getitem)"
)
_HIGHER_ORDER = re.compile(
    r"torch\.ops\.higher_order\.(cond|while_loop|scan|associative_scan|map_impl|out_dtype|strict_mode|wrap"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast|wrap_activation_checkpoint|tag_activation_checkpoint"
    r"|invoke_subgraph|hints_wrapper|flex_attention|flex_attention_backward)"
)

_OF_SIZES = frozenset(
    {"as_int", "as_float", "as_bool", "as_sym_int", "as_sym_float", "as_sym_bool", "as_tensor", "as_tensors"}
)
_GROWS = frozenset({"_operator.pow", "_operator.lshift"})
_LARGEST_POWER = 64


def wrong_target(target: object, libraries: Collection[str]) -> str:
    """Why a graph may not call this; empty where it may."""
    if not isinstance(target, str):
        return "it is not an operator"
    if _ON_SIZES.fullmatch(target) or _HIGHER_ORDER.fullmatch(target):
        return ""
    if (match := _OPERATOR.fullmatch(target)) is None:
        return "it is not an operator"
    library, operator, overload = match.groups()
    if library not in libraries:
        return (
            f"the library {library!r} is not known to be harmless; if you trust it, "
            f"name it in `trusted` (known: {', '.join(sorted(libraries))})"
        )
    if library == "aten" and operator in _TOUCHES_FILES:
        return "it opens files"
    return _missing(library, operator, overload)


def wrong_arguments(node: Mapping[str, Any]) -> str:
    """Why arithmetic on sizes may not be given what this node gives it; empty where it may.

    Python's operators take anything, and a text or a list times a large number fills the memory.
    """
    if not isinstance(target := node["target"], str) or _ON_SIZES.fullmatch(target) is None:
        return ""
    for at, given in enumerate(node["inputs"]):
        for kind, value in given["arg"].items():
            if kind not in _OF_SIZES:
                return f"{kind} {value!r:.100} is no size"
            number = _number(value)
            if at and target in _GROWS and isinstance(number, int | float) and abs(number) > _LARGEST_POWER:
                return f"{number} is above {_LARGEST_POWER}"
    return ""


def _number(value: Any) -> object:
    return next(iter(value.values()), None) if isinstance(value, Mapping) else value


@functools.lru_cache(maxsize=4096)
def _missing(library: str, operator: str, overload: str) -> str:
    """Why this is no operator here; names of a library are also those of its own methods and lists."""
    packet = getattr(getattr(torch.ops, library), operator, None)
    if not isinstance(getattr(packet, overload, None), OpOverload):
        return f"this torch ({torch.__version__}) and the modules that are imported have no such operator"
    # What TorchScript adds to a library of torch's own prints, warns and opens files.
    if library in {"aten", "prims"} and f"{library}::{operator}" not in _dispatched():
        return "it is an operator of TorchScript alone"
    return ""


@functools.cache
def _dispatched() -> frozenset[str]:
    return frozenset(name.partition(".")[0] for name in all_operators())
