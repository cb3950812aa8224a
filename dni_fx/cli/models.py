"""Models that the command line names, as they are and cut."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn
from torch.export import ExportedProgram

from dni_fx import archive, verbs
from dni_fx.cli.code import called, look_up, search_here
from dni_fx.cli.examples import read_example
from dni_fx.cli.options import CutRequest, ModelRequest
from dni_fx.decoupled import Decoupled
from dni_fx.describe import refuse_misfit
from dni_fx.errors import DniError, FileError
from dni_fx.program import Program
from dni_fx.saving import open_cut
from passes import Plan

_PICKLED = {".pt", ".pth", ".pkl", ".bin", ".ckpt"}
_SEED = 0


@dataclass(frozen=True)
class Opened:
    """A model as it was found, and an example of its inputs if one came along or was asked for."""

    model: nn.Module | Program
    example: verbs.Inputs | None


def open_model(request: ModelRequest) -> Opened:
    """The model that a request names; code that makes one runs from a fixed seed.

    Raises:
        FileError: there is none, its file cannot be read or is not to be trusted, or its weights do not fit.
        SpecError: the text of the example cannot be read.
    """
    example = read_example(request.example) if request.example else None
    path = Path(request.text)
    if path.suffix == ".pt2":
        if request.weights is not None:
            raise typer.BadParameter("a .pt2 file holds its own weights.", param_hint="--weights")
        return Opened(_read(path), example)
    if path.suffix in _PICKLED:
        model, own = _unpickled(path, request.allow_pickle), None
    elif ":" in request.text:
        model, own = _made(request.text)
    else:
        raise FileError(
            f"cannot tell what model {request.text!r} is. Name a .pt2 file, or package.module:factory where "
            "factory() returns a torch.nn.Module."
        )
    if request.weights is not None:
        _put_weights(model, request.weights)
    return Opened(model, own if example is None else example)


def cut_model(opened: Opened, request: CutRequest) -> Decoupled:
    """The model cut as asked; one that was cut already as it is.

    Raises:
        DniError: it was cut already and is asked to be cut, or there is no example to cut it with.
        GraphError: it cannot be cut as asked.
    """
    if isinstance(opened.model, Decoupled):
        if given := request.given():
            raise DniError(
                f"this model is cut already, so {' and '.join(given)} would do nothing. Leave "
                f"{'it' if len(given) == 1 else 'them'} out, or name the model that it was cut from."
            )
        return opened.model
    program = captured(opened, request.frontend)
    chosen = read_plan(request.plan or verbs.DEFAULT_PLAN)
    if isinstance(chosen, Plan):
        refuse_misfit(verbs.training_graph(program), chosen)
    return verbs.decouple(
        program,
        plan=chosen,
        synthesizer=_by_pattern(request.synthesizers, "synthesizer", "auto"),
        interface=_by_pattern(request.interfaces, "interface", "dni"),
    )


def captured(opened: Opened, frontend: str | None) -> Program:
    """The model as a program with an example.

    Raises:
        DniError: there is no example, or no front-end can capture the model.
    """
    if isinstance(opened.model, Program):
        if frontend:
            raise DniError("this file holds a graph, not a model to capture: leave --frontend out.")
        if opened.example is not None:
            opened.model.example = verbs.example_call(opened.model.tree, opened.example)
        return opened.model
    if opened.example is None:
        raise DniError(
            f"an example of the inputs of {type(opened.model).__name__} is needed. Give their shapes, as in "
            "--example 32x64, or let the factory return (module, example inputs)."
        )
    return verbs.capture(opened.model, opened.example, frontend=frontend or "auto")


def read_exported(text: str) -> ExportedProgram:
    """The program in a file of `torch.export.save`.

    Raises:
        FileError: the model is no such file, or it is damaged or could run code.
    """
    if not text.endswith(".pt2") or (found := archive.read(text)).meta:
        raise FileError(
            f"Model Explorer draws what torch.export.save wrote, and {text} is something else. Name such a "
            ".pt2 file of the model."
        )
    (program,) = found.programs.values()
    return program


def read_plan(text: str) -> str | Plan:
    """The plan in a `.json` file; any other text is a policy's and stays text.

    Raises:
        FileError: the file cannot be read.
        SpecError: it holds no plan.
    """
    if not text.endswith(".json"):
        return text
    try:
        return Plan.from_json(Path(text).read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read the plan {text}: {_why(error)}.") from None


def read_state(path: Path) -> Mapping[str, Any]:
    """The state dict in a `.pt` or `.safetensors` file. Nothing in the file is run.

    Raises:
        FileError: the file cannot be read, or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return importlib.import_module("safetensors.torch").load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError:
        raise FileError(
            f"cannot read {path}: safetensors is not installed; pip install safetensors."
        ) from None
    except pickle.UnpicklingError:
        raise FileError(
            f"refused to load {path}: it holds more than tensors and plain containers, and reading that can "
            "run any code. Save the model's state_dict() alone."
        ) from None
    except Exception as error:  # OSError, or whatever a damaged archive makes its reader raise
        raise FileError(f"cannot read {path}: {_why(error)}.") from None
    if not isinstance(state, Mapping):
        raise FileError(f"{path} holds a {type(state).__name__}, and not a state dict.")
    return state


def _read(path: Path) -> nn.Module | Program:
    try:
        return verbs.load(path)
    except FileError:
        found = open_cut(path)
        if isinstance(found, Program):
            return found
        raise


def _made(text: str) -> tuple[nn.Module, verbs.Inputs | None]:
    found = look_up(text, "MODEL")
    torch.manual_seed(_SEED)
    made = found if isinstance(found, nn.Module) else called(found, text, "MODEL")
    match made:
        case nn.Module():
            return made, None
        case (nn.Module() as model, example):
            return model, example
        case _:
            raise FileError(
                f"MODEL {text} returned a {type(made).__name__}. It has to return a torch.nn.Module, or a "
                "pair of one and example inputs."
            )


def _unpickled(path: Path, allowed: bool) -> nn.Module:
    if not path.is_file():
        raise FileError(f"cannot read {path}: there is no such file.")
    if not allowed:
        raise FileError(
            f"refused to unpickle {path}: that runs any code the file holds. If it is a state dict, name the "
            f"code of the model and give --weights {path}. If it is a whole module and you trust whoever "
            "made it, add --allow-pickle."
        )
    search_here()
    try:
        found: object = torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ImportError, AttributeError) as error:
        raise FileError(f"cannot read {path}: {_why(error)}.") from None
    if not isinstance(found, nn.Module):
        raise FileError(f"{path} holds a {type(found).__name__}, and not a torch.nn.Module.")
    return found


def _put_weights(model: nn.Module, weights: Path) -> None:
    try:
        model.load_state_dict(read_state(weights))
    except RuntimeError as error:  # lists what is missing, what is too much and what has other shapes
        raise FileError(f"the weights in {weights} do not fit: {error}") from None


def _by_pattern(texts: tuple[str, ...], kind: str, default: str) -> str | dict[str, str]:
    """One choice for all boundaries, or one for each pattern; a choice without a pattern is for the rest."""
    choices: dict[str, str] = {}
    for text in texts:
        before, mark, after = text.partition("=")
        pattern, spec = (before, after) if mark and ":" not in before else ("*", text)
        if pattern in choices:
            raise typer.BadParameter(f"{pattern} is given two {kind}s.", param_hint=f"--{kind}")
        choices[pattern] = spec
    rest = choices.pop("*", default)
    return {**choices, "*": rest} if choices else rest


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
