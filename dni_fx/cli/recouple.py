"""Turn a cut model back into the plain one."""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import torch
import typer
from torch import Tensor

from dni_fx import verbs
from dni_fx.cli.commands.recouple import Mode, Recouple
from dni_fx.cli.fixed_batch import batch_of, say_fixed
from dni_fx.cli.models import open_model
from dni_fx.cli.output import say_json
from dni_fx.cli.places import check_name
from dni_fx.cli.rehearsal import bytes_of, memory_of, say_unwritten
from dni_fx.cli.usage import refuse_idle
from dni_fx.decoupled import Decoupled
from dni_fx.describe import history_of
from dni_fx.errors import DniError, FileError, first_line
from dni_fx.files import check_place, replacing, write_at_once
from dni_fx.plain import plain_program
from dni_fx.single_mode import mode_without_graph
from passes.words import counted

_Write = Callable[[IO[bytes]], object]
_PROGRAM, _SAFE, _STATE = ".pt2", ".safetensors", (".pt", ".pth")


def run(request: Recouple) -> None:
    """Write the plain model, and say what is in the file."""
    _check_place(request)
    opened = open_model(request.source)
    if not isinstance(opened.model, Decoupled):
        raise DniError(f"{request.source.model} is not cut, so there is nothing to take out of it.")
    cut, batch, mode = opened.model, None, request.mode
    if request.output.suffix == _PROGRAM:
        call = verbs.example_of(cut, opened.example)
        program = plain_program(cut, call, training=request.mode is Mode.TRAIN)
        size, write = bytes_of(verbs.recouple(cut)), _program_writer(program)
        batch = batch_of(program, call)
        mode = _mode_written(request, cut)
    else:
        state: dict[str, Tensor] = dict(verbs.recouple(cut).state_dict())
        size = memory_of(state.values())
        write = (
            _safe_writer(state, request.output) if request.output.suffix == _SAFE else _state_writer(state)
        )
    if not request.dry_run:
        with replacing(request.output) as file:
            write(file)
        size = request.output.stat().st_size
    _say(request, cut, size, batch, mode)


def _check_place(request: Recouple) -> None:
    check_name(request.output, (_PROGRAM, _SAFE, *_STATE))
    if request.mode is Mode.TRAIN and request.output.suffix != _PROGRAM:
        raise typer.BadParameter("a state dict has no mode; only a .pt2 file has.", param_hint="--mode")
    if request.output.suffix != _PROGRAM:
        refuse_idle(
            {"--example": request.source.example}, "a state dict is written without running the model"
        )
    check_place(request.output)


def _mode_written(request: Recouple, cut: Decoupled) -> Mode:
    """The mode that the graph is for: the one asked for, or the only one that there is."""
    if mode_without_graph(history_of(cut)) != request.mode:
        return request.mode
    other = Mode.TRAIN if request.mode is Mode.EVAL else Mode.EVAL
    typer.echo(
        f"{request.source.model} holds no graph of {request.mode} mode: what {request.output} gets is that "
        f"of {other} mode. For the weights alone, write a .safetensors or .pt file.",
        err=True,
    )
    return other


def _program_writer(program: torch.export.ExportedProgram) -> _Write:
    return lambda file: write_at_once(file, lambda patient: torch.export.save(program, patient))


def _state_writer(state: Mapping[str, Tensor]) -> _Write:
    own = {name: each.detach() for name, each in state.items()}
    return lambda file: write_at_once(file, lambda patient: torch.save(own, patient))


def _safe_writer(state: Mapping[str, Tensor], place: Path) -> _Write:
    """Writes every name with its numbers; what shares memory is there once for each name."""
    try:
        save_file = importlib.import_module("safetensors.torch").save_file
        refusal: type[Exception] = importlib.import_module("safetensors").SafetensorError
    except ModuleNotFoundError:
        raise FileError(
            "cannot write a .safetensors file: safetensors is not installed; "
            'pip install "dni-fx[safetensors]".'
        ) from None
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in state.items():
        memory = tensor.untyped_storage()
        whole = tensor.is_contiguous() and memory.nbytes() == tensor.nbytes
        is_new = memory.data_ptr() not in seen
        own[name] = tensor.detach() if whole and is_new else tensor.detach().clone().contiguous()
        seen.add(memory.data_ptr())

    def write(file: IO[bytes]) -> None:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        try:
            save_file(own, file.name)  # in another file of that name, which nobody else may read
        except refusal as error:
            raise FileError(f"cannot write {place}: {first_line(error)}.") from error
        Path(file.name).chmod(mode)

    return write


def _say(request: Recouple, cut: Decoupled, size: int, batch: int | None, mode: Mode) -> None:
    names = list(verbs.recouple(cut).state_dict())
    if request.as_json:
        facts = {"file": request.output, "bytes": size, "dry_run": request.dry_run, "tensors": names}
        is_program = request.output.suffix == _PROGRAM
        say_json(facts | ({"mode": mode, "fixed_batch": batch} if is_program else {}))
        return
    if request.dry_run:
        say_unwritten({request.output: size}, about=True)
    else:
        typer.echo(f"wrote {request.output}: {counted(len(names), 'tensor')}")
    say_fixed(batch)
