"""The state of a run in a folder: a file for the part of each process, and a text that names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dni_fx.distributed.packing import packed, unpacked
from dni_fx.errors import FileError, StageError
from dni_fx.tensor_files import DESCRIPTION, read_description, read_shards, write_shards

_MARK = "dni_fx_run"
_VERSION = 1
_TREE = "tree"


def is_run(path: Path) -> bool:
    """Whether there is a folder in which the state of a run may be."""
    return (path / DESCRIPTION).exists()


def is_free(folder: Path) -> bool:
    """Whether a folder holds nothing, or only what a process that was killed has begun to keep there."""
    return all(each.name.removeprefix(".").startswith("dni_fx") for each in folder.iterdir())


def write_parts(folder: Path, parts: Iterable[Mapping[str, Any]]) -> None:
    """Replace what a folder has by these parts of a state, which are asked for one after another.

    Raises:
        FileError: the folder cannot be written, or safetensors is not installed.
        StageError: there is something in it that is no tensor, number, text, None or container of them.
    """
    write_shards(folder, {_MARK: _VERSION}, map(_as_tensors, parts))


def read_parts(folder: Path) -> Iterator[dict[str, Any]]:
    """The parts that `write_parts` wrote, one after another, their tensors on the CPU.

    Raises:
        FileError: a file cannot be read, was changed, or is from a newer version.
    """
    described = read_description(folder)
    version = described.get(_MARK)
    if type(version) is not int:
        raise FileError(f"{folder} holds no state of a training run.")
    if version > _VERSION:
        raise FileError(
            f"{folder} was written by a newer dni_fx: it is of version {version}, this is {_VERSION}."
        )
    for tensors in read_shards(folder, described):
        yield _tree_of(tensors, folder)


def _as_tensors(part: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        text, tensors = packed(dict(part))
    except StageError as error:
        raise StageError(f"cannot keep the run: {error}") from None
    named = {str(at): tensor for at, tensor in enumerate(tensors)}
    return {**named, _TREE: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}


def _tree_of(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
    try:
        text = tensors[_TREE].numpy().tobytes().decode()
        tree = unpacked(text, [tensors[str(at)] for at in range(len(tensors) - 1)])
    except (KeyError, ValueError, TypeError, StageError):
        raise FileError(f"{folder} is damaged, or holds no state of a training run.") from None
    if not isinstance(tree, dict):
        raise FileError(f"{folder} is damaged, or holds no state of a training run.")
    return cast("dict[str, Any]", tree)
