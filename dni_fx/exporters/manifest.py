"""What a folder of stages holds: their files, and the values that pass between them. Plain JSON.

::

    {
      "format": "dni_fx.onnx-stages", "version": 1, "opset": 20,
      "inputs":  [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
      "outputs": [{"name": "output", "dtype": "float32", "shape": ["batch", 3], "from": 1}],
      "stages": [
        {"stage": 0, "file": "stage_0.onnx", "data": "",
         "inputs":  [{"name": "x", "dtype": ..., "shape": ..., "from": "input"}],
         "outputs": [{"name": "layers_0", "dtype": ..., "shape": ..., "boundary": "layers_0", "to": [1]}]},
        ...
      ],
      "shared": {"embed.weight": [0, 3]},
      "constants": {"scale": 2}
    }

A value has one name in all files. `from` is the stage that writes it, or `input`; `to` are the stages that
read it. `boundary` is empty for a value that carries no gradient (a mask, a size), and for outputs. `shared`
are weights that several stages read: each of their files has a copy. `constants` are outputs that
are the same whatever the model is given, and that no stage writes.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dni_fx.device.plain_files import misplaced
from dni_fx.errors import FileError

NAME = "manifest.json"
"""The name of the file in the folder."""
VERSION = 1
"""A newer version is refused, by its number."""
_FORMAT = "dni_fx.onnx-stages"
_LARGEST = 16 * 2**20
"""Bytes. A thousand stages with ten values each need less than a tenth of it."""


@dataclass(frozen=True)
class Value:
    """A tensor that is passed. A size is a number, an expression such as `2*batch`, or None if unknown."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Read:
    """A value that is taken from a stage; None stands for the model's inputs."""

    value: Value
    source: int | None


@dataclass(frozen=True)
class Write:
    """A value that a stage makes, the boundary by which it leaves, if any, and the stages that read it."""

    value: Value
    boundary: str
    readers: tuple[int, ...]


@dataclass(frozen=True)
class StageFile:
    """One stage's file, the one beside it if its weights are too many for one; what it reads and writes."""

    index: int
    file: str
    data: str
    reads: tuple[Read, ...]
    writes: tuple[Write, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its files."""
        return (self.file, self.data) if self.data else (self.file,)


@dataclass(frozen=True)
class Manifest:
    """All stages in an order in which they can run, and what the whole takes and returns."""

    opset: int
    inputs: tuple[Value, ...]
    outputs: tuple[Read, ...]
    stages: tuple[StageFile, ...]
    shared: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Any]

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files of the folder, its own first."""
        return (NAME, *(name for stage in self.stages for name in stage.names))

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(_plain(self), indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """What the folder holds; every file that it names is there, and lies in it.

    Raises:
        FileError: it is missing, damaged, too large, newer than this version, or names what is not a plain
            file of the folder; or a stage reads what none before it writes.
    """
    path = folder / NAME
    try:
        read = json.loads(_bytes_of(path))
        if read["format"] != _FORMAT:
            raise ValueError(f"its format is {read['format']!r:.40}, not {_FORMAT!r}")
        version = int(read["version"])
        if version > VERSION:
            raise FileError(
                f"cannot read {path}: it has version {version}, newer than {VERSION}, which is all that this "
                "dni_fx reads. Install a newer dni_fx."
            )
        manifest = _manifest(read)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"cannot read {path}: it is not what dni_fx writes there ({error!r}).") from None
    if problems := [*misplaced(folder, manifest.files), *_unfed(manifest)]:
        listed = "".join(f"\n  * {problem}" for problem in problems)
        raise FileError(f"refused to read {path}:{listed}")
    return manifest


def _bytes_of(path: Path) -> bytes:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise FileError(f"cannot read {path}: it is no plain file.")
        if status.st_size > _LARGEST:
            raise FileError(f"cannot read {path}: {status.st_size} bytes, more than any manifest has.")
        with path.open("rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise FileError(
            f"cannot read {path}: {error.strerror or error}. A folder of stages is written by "
            'dni_fx.export(..., exporter="onnx-stages").'
        ) from None


def _unfed(manifest: Manifest) -> Iterator[str]:
    """What is read before anybody has written it, or written twice."""
    known: dict[tuple[int | None, str], Value] = {(None, value.name): value for value in manifest.inputs}
    names = {value.name for value in manifest.inputs}
    for stage in manifest.stages:
        for read in stage.reads:
            if (read.source, read.value.name) not in known:
                yield f"stage {stage.index} reads {read.value.name!r:.80}, which nothing before it writes"
        for write in stage.writes:
            if write.value.name in names:
                yield f"{write.value.name!r:.80} is written twice"
            names.add(write.value.name)
            known[stage.index, write.value.name] = write.value
    for output in manifest.outputs:
        if (output.source, output.value.name) not in known:
            yield f"the output {output.value.name!r:.80} is written by no stage"


def _plain(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": VERSION,
        "opset": manifest.opset,
        "inputs": [_value_to(value) for value in manifest.inputs],
        "outputs": [_read_to(read) for read in manifest.outputs],
        "stages": [
            {
                "stage": stage.index,
                "file": stage.file,
                "data": stage.data,
                "inputs": [_read_to(read) for read in stage.reads],
                "outputs": [
                    {**_value_to(write.value), "boundary": write.boundary, "to": list(write.readers)}
                    for write in stage.writes
                ],
            }
            for stage in manifest.stages
        ],
        "shared": {name: list(stages) for name, stages in manifest.shared.items()},
        "constants": dict(manifest.constants),
    }


def _manifest(read: Mapping[str, Any]) -> Manifest:
    return Manifest(
        int(read["opset"]),
        tuple(_value_of(each) for each in read["inputs"]),
        tuple(_read_of(each) for each in read["outputs"]),
        tuple(
            StageFile(
                int(stage["stage"]),
                _text(stage["file"]),
                _text(stage["data"]),
                tuple(_read_of(each) for each in stage["inputs"]),
                tuple(
                    Write(_value_of(each), _text(each["boundary"]), tuple(map(int, each["to"])))
                    for each in stage["outputs"]
                ),
            )
            for stage in read["stages"]
        ),
        {_text(name): tuple(map(int, stages)) for name, stages in read["shared"].items()},
        dict(read["constants"]),
    )


def _value_to(value: Value) -> dict[str, Any]:
    return {"name": value.name, "dtype": value.dtype, "shape": list(value.shape)}


def _value_of(read: Mapping[str, Any]) -> Value:
    shape = read["shape"]
    if not isinstance(shape, list) or not all(dim is None or isinstance(dim, int | str) for dim in shape):
        raise ValueError(f"{shape!r:.80} is no shape")
    return Value(_text(read["name"]), _text(read["dtype"]), tuple(shape))


def _read_to(read: Read) -> dict[str, Any]:
    return {**_value_to(read.value), "from": "input" if read.source is None else read.source}


def _read_of(read: Mapping[str, Any]) -> Read:
    return Read(_value_of(read), None if read["from"] == "input" else int(read["from"]))


def _text(found: object) -> str:
    if not isinstance(found, str):
        raise TypeError(f"{found!r:.80} is no text")
    return found
