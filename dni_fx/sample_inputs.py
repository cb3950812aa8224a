"""The example inputs of a program: the one member of a `.pt2` file that torch keeps as a pickle.

Of pickles, `torch.load(weights_only=True)` reads tensors and plain containers alone. What it reads is
still made to measure here: memory that is packed, claimed or shared without end is refused.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dni_fx.errors import FileError
from dni_fx.members import check_zip

_MOST_LEAVES = 100_000
LARGEST_REPEAT = 2**30
"""Bytes that a tensor may have which repeats the same memory."""


def read_sample_inputs(path: Path, member: bytearray | None) -> tuple[Any, ...] | None:
    """The arguments that a program was exported with, if the file holds any. Nothing is run.

    Raises:
        FileError: they are more than tensors and plain containers, or not as large as they claim.
    """
    if not member:
        return None
    doing = f"cannot read {path}: its example inputs"
    file = io.BytesIO(member)
    try:
        check_zip(file, doing, lambda archive: ()).close()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise FileError(f"{doing} are damaged ({error}).") from None
    file.seek(0)
    try:
        example = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler's own errors, and everything a damaged pickle can lead to
        raise FileError(
            f"refused to load {path}: its example inputs are not plain tensors and containers, and reading "
            "anything else can run code. Save the program with such inputs only."
        ) from error
    if not isinstance(example, tuple):
        raise FileError(f"{doing} are a {type(example).__name__}, not a tuple.")
    if why := next(_wrong_leaves(example, len(member)), ""):
        raise FileError(f"{doing} {why}.")
    return cast("tuple[Any, ...]", example)


def _wrong_leaves(example: object, size: int) -> Iterator[str]:
    """What is too large; a container that holds itself, or another one many times over, is without end."""
    todo, seen = [example], 0
    while todo:
        each, seen = todo.pop(), seen + 1
        if seen > _MOST_LEAVES:
            yield f"have more than {_MOST_LEAVES:,} parts"
            return
        if isinstance(each, Tensor):
            if why := oversized(each, size):
                yield f"hold a tensor that {why}"
        elif isinstance(each, dict):
            todo.extend(cast("dict[Any, object]", each).values())
        elif isinstance(each, tuple | list | set):
            todo.extend(cast("list[object]", each))


def oversized(tensor: Tensor, held: int) -> str:
    """Why a tensor is larger than the `held` bytes of file that it came from allow; empty if it is not."""
    if tensor.layout is not torch.strided or tensor.is_meta:
        return "is not plain memory"
    size = tensor.numel() * tensor.element_size()
    if tensor.untyped_storage().nbytes() > held:
        return f"claims {tensor.untyped_storage().nbytes():,} bytes, and there are {held:,}"
    if size > max(held, LARGEST_REPEAT):
        return f"repeats {held:,} bytes until they are {size:,}"
    return ""
