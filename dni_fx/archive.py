"""One file for a cut model: its programs, its weights once, its synthesizers and where it came from.

The file is a `.pt2` as `torch.export.load` reads it (once `dni_fx` is imported): the inference program
is its model `model`. Where the training graph exports too it is the model `train`, and both point
to the same weights. Synthesizer state lies under `data/dni_fx/`, the rest in `extra/dni_fx.json`.
"""

from __future__ import annotations

import inspect
import json
import os
import stat
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch._export.serde.serialize import SerializedArtifact, deserialize, serialize
from torch.export import ExportedProgram

from dni_fx.errors import FileError
from dni_fx.files import replacing
from dni_fx.json_types import parse_json
from dni_fx.members import read_members
from dni_fx.payload import PayloadReader, PayloadWriter, Write
from dni_fx.relocated import relocated
from dni_fx.sample_inputs import read_sample_inputs
from dni_fx.vetting import clean_program, vet_program

VERSION = 1
"""The version of what dni_fx adds to a `.pt2` file. A newer one is refused, by its number."""

_MODELS = {"eval": "model", "train": "train"}  # `torch.export.load` takes the one called `model`
_WEIGHTS, _CONSTANTS, _OURS = "data/weights", "data/constants", "data/dni_fx"
_STATE, _META = f"{_OURS}/state_config.json", "extra/dni_fx.json"
_MOST_META = 64 * 2**20
_HEADER = {"archive_format": b"pt2", "archive_version": b"0", ".data/version": b"6\n", "byteorder": b"little"}


@dataclass(frozen=True)
class Archive:
    """What a file holds. `programs` has "eval", "train" or both, over one set of parameters.

    Of a `.pt2` file that dni_fx did not write, `state` and `meta` are empty, and `training` says in
    which mode its only program was exported: None if nothing tells, and then it is called "eval".
    """

    programs: dict[str, ExportedProgram]
    state: dict[str, Tensor]
    meta: dict[str, Any]
    training: bool | None = None


def write(
    path: str | os.PathLike[str],
    programs: Mapping[str, ExportedProgram],
    state: Mapping[str, Tensor],
    meta: Mapping[str, Any],
) -> None:
    """Write one `.pt2` file whole or not at all; a file that is there stays as it was until then.

    Args:
        path: where to.
        programs: "eval" and, where there is one, "train".
        state: the tensors of the synthesizers.
        meta: what JSON can hold of the rest.

    Raises:
        FileError: the file cannot be written, or a program or tensor cannot be put in one.
    """
    try:
        with replacing(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
            _write_members(_into(archive), programs, state, meta)
    except FileError:
        raise
    except Exception as error:  # torch says that it cannot serialize an operator in many ways
        raise FileError(f"cannot write {path}: {type(error).__name__}: {error}") from error


def read(
    path: str | os.PathLike[str], *, trusted: Collection[str] = (), device: torch.device | None = None
) -> Archive:
    """Read a `.pt2` file of dni_fx or of `torch.export.save` without running anything that it holds.

    Args:
        path: where from.
        trusted: libraries besides torch's own whose operators a program may call (`mylib` of `mylib::op`).
        device: where to, whatever the file says; the example inputs are on the CPU.

    Raises:
        FileError: the file is missing, damaged, not a `.pt2`, of a newer version, or could run code.
    """
    path = Path(path)
    members = read_members(path)
    meta = _read_meta(path, members)
    names = [name[len("models/") : -len(".json")] for name in members if name.startswith("models/")]
    payload = PayloadReader(path, members, device)
    programs = {name: _read_program(path, members, payload, name, trusted) for name in names}
    if meta is None:
        return _foreign(path, programs)
    if "model" not in programs or set(programs) - set(_MODELS.values()):
        raise FileError(
            f"cannot read {path}: it holds the programs {', '.join(names) or 'none'}, and not `model`."
        )
    programs = {mode: programs[name] for mode, name in _MODELS.items() if name in programs}
    return Archive(programs, payload.tensors(_STATE, _OURS), meta)


def _write_members(
    write: Write,
    programs: Mapping[str, ExportedProgram],
    state: Mapping[str, Tensor],
    meta: Mapping[str, Any],
) -> None:
    for name, content in _HEADER.items():
        write(name, content)
    models = {_MODELS[mode]: program for mode, program in programs.items()}
    constants = {name: _tensor_constants(program) for name, program in models.items()}
    payload = PayloadWriter(write, [*(p.state_dict for p in models.values()), *constants.values(), state])
    for name, program in models.items():
        graph, example = _serialize(program)
        table = payload.table(program.state_dict, f"{_WEIGHTS}/weight_")
        write(f"{_WEIGHTS}/{name}_weights_config.json", table)
        table = payload.table(constants[name], f"{_CONSTANTS}/tensor_")
        write(f"{_CONSTANTS}/{name}_constants_config.json", table)
        write(f"models/{name}.json", graph)
        write(f"data/sample_inputs/{name}.pt", example)
    write(_STATE, payload.table(state, f"{_OURS}/state_"))
    write(_META, json.dumps({"version": VERSION, "meta": meta}, indent=1).encode())


def _tensor_constants(program: ExportedProgram) -> dict[str, Tensor]:
    constants: dict[str, Tensor] = {}
    for name, value in program.constants.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise FileError(f"cannot write the constant {name}: a {kind} would have to be pickled.")
        constants[name] = value
    return constants


def _serialize(program: ExportedProgram) -> tuple[bytes, bytes]:
    """The JSON of a program, and its example inputs."""
    # Releases differ in whether they can leave out the weights, which are written elsewhere.
    known = inspect.signature(serialize).parameters
    without: dict[str, Any] = dict.fromkeys(
        {"serialize_state_dict", "serialize_constants"} & set(known), False
    )
    artifact = serialize(program, **without)
    return clean_program(json.loads(artifact.exported_program)), artifact.example_inputs


def _read_meta(path: Path, members: Mapping[str, bytearray]) -> dict[str, Any] | None:
    """What `write` was given as `meta`; None if somebody else wrote the file."""
    if (members["archive_format"], members.get("archive_version")) != (b"pt2", b"0"):
        version = bytes(members.get("archive_version", b"none")).decode(errors="replace")
        raise FileError(
            f"cannot read {path}: it is of archive version {version:.20}, and this torch reads 0."
        )
    if members.get("byteorder", b"little") != b"little":
        raise FileError(f"cannot read {path}: its numbers are not in little-endian order.")
    if _META not in members:
        return None
    try:
        read = parse_json(members[_META], _MOST_META)
        version, meta = read["version"], read["meta"]
        if type(version) is not int or version < 1 or not isinstance(meta, dict):
            raise ValueError(f"version {version!r:.20}, and a {type(meta).__name__}")
    except (ValueError, LookupError, TypeError) as error:
        raise FileError(
            f"cannot read {path}: {_META} is not what dni_fx writes there ({error!r:.200})."
        ) from None
    if version > VERSION:
        raise FileError(
            f"cannot read {path}: it has version {version}, newer than {VERSION}, which is all that this "
            "dni_fx reads. Install a newer dni_fx."
        )
    return cast("dict[str, Any]", meta)


def _read_program(
    path: Path, members: Mapping[str, bytearray], payload: PayloadReader, name: str, trusted: Collection[str]
) -> ExportedProgram:
    graph = vet_program(members[f"models/{name}.json"], f"{path}, models/{name}.json", trusted)
    graph = relocated(graph, payload.device) if payload.device is not None else graph
    state = payload.tensors(f"{_WEIGHTS}/{name}_weights_config.json", _WEIGHTS)
    constants = payload.tensors(f"{_CONSTANTS}/{name}_constants_config.json", _CONSTANTS)
    example = read_sample_inputs(path, members.get(f"data/sample_inputs/{name}.pt"))
    # The fields are annotated as what a file holds; what is tensors already, torch takes as it is.
    artifact: Any = (graph, state, constants, example)
    try:
        return deserialize(SerializedArtifact(*artifact))
    except Exception as error:  # whatever torch finds wrong with a graph, in the types it happens to raise
        problem = str(error).strip().splitlines() or [type(error).__name__]
        raise FileError(
            f"cannot read {path}: torch {torch.__version__} cannot rebuild program {name!r}: "
            f"{problem[-1]:.500}"
        ) from error


def _foreign(path: Path, programs: Mapping[str, ExportedProgram]) -> Archive:
    if len(programs) != 1:
        raise FileError(f"cannot read {path}: it holds {len(programs)} programs, and one is needed.")
    (program,) = programs.values()
    training = exported_in_training(program)
    return Archive({"train" if training else "eval": program}, {}, {}, training)


def exported_in_training(program: ExportedProgram) -> bool | None:
    """Whether a program draws dropout masks or normalizes by the batch; None if nothing in it could."""
    flags = [flag for node in program.graph.nodes if (flag := _training_flag(node)) is not None]
    return any(flags) if flags else None


def _training_flag(node: torch.fx.Node) -> bool | None:
    schema = getattr(node.target, "_schema", None)
    for position, argument in enumerate(schema.arguments if schema else ()):
        if argument.name in {"training", "train"}:
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            return bool(argument.default_value if given is None else given)
    return None


def _into(archive: zipfile.ZipFile) -> Write:
    def write(name: str, content: bytes | memoryview[int]) -> None:
        info = zipfile.ZipInfo(f"archive/{name}")  # of a fixed date: the same model gives the same bytes
        info.external_attr = (stat.S_IFREG | 0o644) << 16
        with archive.open(info, "w", force_zip64=len(content) > 2**31 - 1) as member:
            member.write(content)

    return write
