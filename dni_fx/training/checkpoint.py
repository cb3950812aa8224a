"""The state of a run in one file, which is there whole or not at all."""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn

from dni_fx.errors import FileError, StageError
from dni_fx.files import replacing, write_at_once
from dni_fx.members import check_zip

MARK = "dni_fx_checkpoint"
"""The entry that tells a checkpoint from other files; it holds the version."""
VERSION = 1
_PLAIN = {
    Tensor,
    nn.Parameter,
    int,
    float,
    bool,
    str,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    torch.Size,
}


class State(TypedDict):
    """What there is to know of a run."""

    runtime: str
    model: dict[str, Any]
    updates: dict[str, Any]
    steps: int
    epochs: list[dict[str, Any]]
    sofar: dict[str, Any]
    history: dict[str, Any]
    order: dict[str, Any]
    callbacks: list[dict[str, Any]]
    stream: dict[str, list[Tensor]]


def write_checkpoint(path: Path, state: State) -> None:
    """Replace the file by one with this state: tensors, numbers, texts, and containers of them.

    Raises:
        FileError: the path cannot be written.
        StageError: there is something in it that could not be read back without running code.
    """
    if odd := next(_odd(state, "the state"), ""):
        raise StageError(
            f"cannot keep the run: {odd}. Tensors, numbers, texts, None and containers are kept."
        )
    with replacing(path) as file:
        write_at_once(file, lambda whole: torch.save({MARK: VERSION, **state}, whole))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote, its tensors on the CPU; nothing in the file is run.

    Raises:
        FileError: the file cannot be read, is no checkpoint, or is from a newer version.
    """
    refusal = FileError(f"{path} is damaged, or no checkpoint of a training run.")
    try:
        # Packed members could unpack to any size.
        with path.open("rb") as file, check_zip(file, f"refused to load {path}", lambda _: ()) as archive:
            if archive.testzip():  # which reads all of it; torch would not notice a changed bit
                raise refusal
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from None
    except (RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile):
        raise refusal from None
    version = state.get(MARK) if isinstance(state, dict) else None
    if type(version) is not int:
        raise FileError(f"{path} is no checkpoint of a training run.")
    if version > VERSION:
        raise FileError(
            f"{path} was written by a newer dni_fx: it is of version {version}, this is {VERSION}."
        )
    state.setdefault("stream", {})  # which runs that carried no state did not write at first
    if state.keys() != {MARK, *State.__annotations__}:
        raise refusal
    return state


def _odd(value: object, place: str) -> Iterator[str]:
    """What of a state could not be read back without running code, and where it is."""
    if type(value) in {dict, OrderedDict, Counter}:  # which schedules with milestones keep
        for key, each in cast("dict[Any, Any]", value).items():
            yield from _odd(key, place)
            yield from _odd(each, f"{place}[{key!r}]")
    elif type(value) in {list, tuple, set}:
        for at, each in enumerate(cast("list[Any]", value)):
            yield from _odd(each, f"{place}[{at}]")
    elif type(value) not in _PLAIN:
        yield f"{place} is a {type(value).__name__}"
