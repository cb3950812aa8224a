"""The state of a run in one file or folder, which is there whole or not at all."""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn

from dni_fx.errors import FileError, StageError
from dni_fx.files import check_place, replacing, write_at_once
from dni_fx.members import check_zip
from dni_fx.tensor_files import DESCRIPTION, check_tensor_files
from dni_fx.training.parts import is_free, is_run, read_parts, write_parts

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


def is_there(path: Path) -> bool:
    """Whether a run may have been kept at this path: there is a file, or a folder that holds a run."""
    return is_run(path) if path.is_dir() else path.exists()


def is_to_be_resumed(path: Path, resume: bool) -> bool:
    """Whether there is a run to go on from.

    Raises:
        FileError: there is one, and it is not to be resumed.
    """
    if is_there(path) and not resume:
        raise FileError(
            f"{path} is there already. Pass resume=True to go on from it, or delete it to begin anew."
        )
    return is_there(path)


def check_checkpoint(path: Path | None, several: bool) -> None:
    """Do nothing if the run of one process, or of `several`, can be kept at this path.

    Raises:
        FileError: it cannot.
    """
    if path is None:
        return
    in_parts = _in_parts(path, several)
    if in_parts:
        check_tensor_files(path)
    check_place(path / DESCRIPTION if in_parts and path.is_dir() else path)


def write_checkpoint(path: Path, parts: Iterable[Mapping[str, Any]], several: bool) -> None:
    """Replace what is at the path by this state: tensors, numbers, texts, and containers of them.

    The first of the `parts` has the `rest` of the state beside its share of model and optimizers, and the
    others their shares. A file stays a file, and a folder of parts one; where nothing is yet, `several`
    processes make a folder of their parts.

    Raises:
        FileError: the path cannot be written.
        StageError: there is something in it that could not be read back without running code.
    """
    if _in_parts(path, several):
        write_parts(path, parts)
        return
    state = joined(parts)
    if odd := next(_odd(state, "the state"), ""):
        raise StageError(
            f"cannot keep the run: {odd}. Tensors, numbers, texts, None and containers are kept."
        )
    with replacing(path) as file:
        write_at_once(file, lambda whole: torch.save({MARK: VERSION, **state}, whole))


def joined(parts: Iterable[Mapping[str, Any]]) -> State:
    """The whole state, of its parts."""
    (first, *others) = parts
    state = {**first["rest"], "model": {}, "updates": {**first["rest"]["updates"], "optimizers": {}}}
    for part in (first, *others):
        state["model"] |= part["model"]
        state["updates"]["optimizers"] |= part["optimizers"]
    return cast("State", state)


def _in_parts(path: Path, several: bool) -> bool:
    return is_run(path) or (several and (is_free(path) if path.is_dir() else not path.exists()))


def read_checkpoint(path: Path) -> State:
    """What `write_checkpoint` wrote, its tensors on the CPU; nothing in the file is run.

    Raises:
        FileError: it cannot be read, is no checkpoint, or is from a newer version.
    """
    state = _of_folder(path) if path.is_dir() else _of_file(path)
    state.setdefault("stream", {})  # which runs that carried no state did not write at first
    if state.keys() != State.__annotations__.keys():
        raise _damaged(path)
    return cast("State", state)


def _damaged(path: Path) -> FileError:
    return FileError(f"{path} is damaged, or no checkpoint of a training run.")


def _of_folder(path: Path) -> dict[str, Any]:
    try:
        return {**joined(read_parts(path))}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _damaged(path) from None


def _of_file(path: Path) -> dict[str, Any]:
    refusal = _damaged(path)
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
    return {key: value for key, value in state.items() if key != MARK}


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
