"""Example inputs in text: `32x64,8x16:int64<100`."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from dni_fx.errors import first_line
from passes import SpecError

_ITEM = re.compile(r"(?P<sizes>\d+(?:x\d+)*)(?::(?P<dtype>[a-z]+\d*)(?:<(?P<below>\d+))?)?")
_DTYPES = {
    name: getattr(torch, name)
    for name in ("bfloat16", "bool", "float16", "float32", "float64", "int32", "int64", "uint8")
}
_BELOW = 2
_SEED = 0


def read_example(text: str) -> tuple[Tensor, ...]:
    """One tensor for each shape, the same every time: normal floats, integers in [0, N) or [0, 2).

    >>> [tuple(tensor.shape) for tensor in read_example("32x64,8x16:int64<100")]
    [(32, 64), (8, 16)]

    Raises:
        SpecError: the text is malformed (a caret shows where), or there is no such dtype.
    """
    draw = torch.Generator().manual_seed(_SEED)
    tensors: list[Tensor] = []
    at = 0
    while True:
        found = _ITEM.match(text, at)
        if found is None or text[found.end() : found.end() + 1] not in {"", ","}:
            raise _malformed(text, at if found is None else found.end())
        tensors.append(_tensor(found.groupdict(), draw))
        if found.end() == len(text):
            return tuple(tensors)
        at = found.end() + 1


def _tensor(item: dict[str, Any], draw: torch.Generator) -> Tensor:
    sizes = [int(size) for size in item["sizes"].split("x")]
    name = item["dtype"] or "float32"
    if name not in _DTYPES:
        raise SpecError(f"--example knows no dtype {name!r}. Known: {', '.join(_DTYPES)}.")
    dtype = _DTYPES[name]
    if not sizes[0]:
        raise SpecError(f"--example asks for {item['sizes']}, and an example without samples proves nothing.")
    try:
        return _drawn(sizes, dtype, item, draw)
    except (RuntimeError, OverflowError, TypeError) as error:  # how torch says that there is no such memory
        raise SpecError(
            f"--example asks for {item['sizes']}, which cannot be made: {first_line(error)}."
        ) from None


def _drawn(sizes: list[int], dtype: torch.dtype, item: dict[str, Any], draw: torch.Generator) -> Tensor:
    if not dtype.is_floating_point:
        below = int(item["below"] or _BELOW)
        if not below:
            raise SpecError("--example asks for integers from 0 up and below 0; there are none.")
        return torch.randint(below, sizes, generator=draw).to(dtype)
    if item["below"]:
        raise SpecError(
            f"--example: <{item['below']} bounds integers, and {item['dtype'] or 'float32'} is none."
        )
    return torch.randn(sizes, generator=draw).to(dtype)


def _malformed(text: str, at: int) -> SpecError:
    return SpecError(
        f"cannot read --example here:\n  {text}\n  {' ' * at}^\n"
        "The form is 32x64 or 8x16:int64<100; several inputs are separated by commas."
    )
