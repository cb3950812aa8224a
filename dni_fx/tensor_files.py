"""Tensors as safetensors: a table of JSON and plain numbers, no pickle; in a folder, or in a file alone.

In a folder the file is called after what is in it, and a text of JSON beside it names it. Replacing that one
text is what replaces both, so a reader never meets the numbers of one state with the description of another.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import re
import stat
import struct
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from dni_fx.errors import FileError, first_line
from dni_fx.files import part_of, remove_leftovers, write_as_any, write_whole
from dni_fx.json_types import parse_json

DESCRIPTION = "dni_fx.json"
_NUMBERS = "dni_fx-{}.safetensors"
_NAME = re.compile(r"dni_fx-([0-9a-f]{16})\.safetensors")
_MOST_TEXT, _MOST_HEADER = 64 * 2**20, 64 * 2**20


def write_folder(folder: Path, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a description and its tensors into a folder, which is made if it is not there.

    Until the description is replaced, at the very end, the folder holds what it held before. Other files in
    it are left alone.

    Raises:
        FileError: the folder cannot be written, a link is in the way, or safetensors is not installed.
    """
    with _filling(folder) as written:
        name, digest = _write_numbers(folder, tensors)
        written.add(name)
        _describe(folder, {**described, "numbers": name, "sha256": digest})


def write_shards(folder: Path, described: Mapping[str, Any], shards: Iterable[Mapping[str, Tensor]]) -> None:
    """Like `write_folder`, with a file for each of these parts, which are asked for one after another.

    Raises:
        FileError: the folder cannot be written, a link is in the way, or safetensors is not installed.
    """
    with _filling(folder) as written:
        told: list[dict[str, str]] = []
        for tensors in shards:
            name, digest = _write_numbers(folder, tensors)
            written.add(name)
            told.append({"numbers": name, "sha256": digest})
        _describe(folder, {**described, "shards": told})


@contextmanager
def _filling(folder: Path) -> Generator[set[str]]:
    """A place for the names of new files, which stay if all goes well; the old ones do if not."""
    if (folder / DESCRIPTION).is_symlink():
        raise FileError(f"cannot write {folder / DESCRIPTION}: it is a link. Remove it first.")
    written: set[str] = set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder, "dni_fx")
        before = {path.name for path in folder.iterdir()}
        try:
            yield written
        except BaseException:  # also Ctrl-C, when the description may have been replaced already
            for name in written - before - _in_use(folder):
                (folder / name).unlink(missing_ok=True)
            raise
        for other in before - written:
            if _NAME.fullmatch(other):
                (folder / other).unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"cannot write {folder}: {error.strerror or error}.") from error


def _describe(folder: Path, entries: Mapping[str, Any]) -> None:
    write_whole(folder / DESCRIPTION, json.dumps(entries, indent=1).encode())


def _in_use(folder: Path) -> set[str]:
    """The files of numbers that belong to what the folder holds now."""
    path = folder / DESCRIPTION
    text = path.read_text("utf-8", "ignore") if path.exists() else ""
    return {match[0] for match in _NAME.finditer(text)}


def _write_numbers(folder: Path, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """A new file of these tensors, whole, called after what is in it; returns its name and its digest."""
    part = part_of(folder / "dni_fx")
    try:
        _save(tensors, part)
        digest = _digest(part)
        name = _NUMBERS.format(digest[:16])
        part.replace(folder / name)
    finally:
        part.unlink(missing_ok=True)
    return name, digest


def read_description(folder: Path) -> dict[str, Any]:
    """The description in a folder, of whatever it says.

    Raises:
        FileError: there is none, it lies elsewhere, or it is not JSON.
    """
    with _opened(folder, DESCRIPTION) as file:
        size = os.fstat(file.fileno()).st_size
        text = file.read(min(size, _MOST_TEXT + 1))
    try:
        described = parse_json(text, _MOST_TEXT)
    except ValueError as error:
        raise FileError(f"cannot read {folder / DESCRIPTION}: {error}.") from None
    if not isinstance(described, dict):
        raise FileError(f"cannot read {folder / DESCRIPTION}: it is a {type(described).__name__}.")
    return described


def read_tensors(folder: Path, described: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that a description names, on the CPU; nothing but the folder's own file is opened.

    Raises:
        FileError: the file is missing, lies elsewhere, was changed, or is not what it claims to be.
    """
    name, digest = described.get("numbers"), described.get("sha256")
    if not (isinstance(name, str) and isinstance(digest, str) and (match := _NAME.fullmatch(name))):
        raise FileError(f"cannot read {folder / DESCRIPTION}: it names no file of numbers beside it.")
    path = folder / name
    with _opened(folder, name) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest or digest[:16] != match[1]:
            raise FileError(f"cannot read {path}: it is damaged, or belongs to another {DESCRIPTION}.")
        file.seek(0)
        _check_header(path, file)
    return _tensors_in(path)


def read_shards(folder: Path, described: Mapping[str, Any]) -> Iterator[dict[str, Tensor]]:
    """The parts that a description names, one after another, each like `read_tensors`.

    Raises:
        FileError: as of `read_tensors`, or the description has no list of them.
    """
    shards = described.get("shards")
    if not isinstance(shards, list) or not shards:
        raise FileError(f"cannot read {folder / DESCRIPTION}: it names no files of numbers beside it.")
    for each in cast("list[Any]", shards):
        yield read_tensors(folder, cast("dict[str, Any]", each) if isinstance(each, dict) else {})


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file of whoever wrote it, on the CPU.

    Raises:
        FileError: there is none, or it is not what it claims to be.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a pipe is to wait for who writes to it
            raise FileError(f"cannot read {path}: it is a device or a pipe. Name a file.")
        with path.open("rb") as file:
            _check_header(path, file)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from None
    return _tensors_in(path)


def _tensors_in(path: Path) -> dict[str, Tensor]:
    library = _library(path, "safetensors")
    try:
        with library.safe_open(path, framework="pt", device="cpu") as found:
            return {key: found.get_tensor(key) for key in found.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, RuntimeError, ValueError, TypeError, library.SafetensorError) as error:
        raise FileError(f"cannot read {path}: {first_line(error)}.") from error


def _check_header(path: Path, file: BufferedReader) -> None:
    """Do nothing if the table of a file is no longer than it may be, and than the file is."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > min(size - 8, _MOST_HEADER):
        raise FileError(f"cannot read {path}: its table claims {length:,} bytes of {size:,}.")


def _opened(folder: Path, name: str) -> BufferedReader:
    """A plain file that lies in the folder itself, whatever links there are on the way to the folder."""
    path = folder / name
    try:
        home = Path(os.path.realpath(folder))
        number = os.open(home / name, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
        file = os.fdopen(number, "rb")
        if stat.S_ISREG(os.fstat(number).st_mode) and Path(os.path.realpath(home / name)).parent == home:
            return file
        file.close()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileError(f"cannot read {path}: it is a link, and only what lies there is read.") from None
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from None
    raise FileError(f"cannot read {path}: it is no file of this folder.")


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    library = _library(path.parent, "safetensors.torch")
    refusal: type[Exception] = _library(path.parent, "safetensors").SafetensorError
    try:
        held = dict(_apart(tensors))
        write_as_any(path, lambda place: library.save_file(held, place, metadata={"format": "pt"}))
    except (refusal, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"cannot write {path.parent}: {first_line(error)}.") from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _apart(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors, none of which shares memory with another one, as such a file has it."""
    seen: Collection[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().contiguous()
        memory = flat.untyped_storage().data_ptr()
        whole = flat.numel() * flat.element_size() == flat.untyped_storage().nbytes()
        yield name, flat if whole and memory not in seen else flat.clone()
        seen = {*seen, memory}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_tensor_files(place: Path) -> None:
    """Do nothing if such files can be written.

    Raises:
        FileError: safetensors is not installed.
    """
    _library(place, "safetensors.torch")


def _library(place: Path, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise FileError(
            f'cannot use {place}: safetensors is not installed; pip install "dni-fx[safetensors]".'
        ) from None
