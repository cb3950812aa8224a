"""Models that the command line names, as they are and cut."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn
from torch.export import ExportedProgram

from dni_fx import archive, verbs
from dni_fx.cli.after_all import Printer, show_cut
from dni_fx.cli.code import called, look_up, search_here
from dni_fx.cli.commands.options import CaptureRequest, CutRequest, ModelRequest
from dni_fx.cli.examples import read_example
from dni_fx.cli.named_files import misfits, read_plan, read_state, why
from dni_fx.cli.usage import refuse_idle
from dni_fx.decoupled import Decoupled
from dni_fx.describe import refuse_misfit
from dni_fx.errors import DniError, FileError
from dni_fx.feedback import Carry
from dni_fx.interface import INTERFACES
from dni_fx.program import Program
from dni_fx.reopened import reopened
from dni_fx.saving import open_cut
from dni_fx.single_mode import in_both_modes
from dni_fx.synthesizers import SYNTHESIZERS
from passes import Plan, Registry
from passes.named import takers_of

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
        typer.BadParameter: an option says nothing about what it names.
        FileError: there is none, its file cannot be read or is not to be trusted, or its weights do not fit.
        SpecError: the text of the example cannot be read.
    """
    example = read_example(request.example) if request.example else None
    path = Path(request.model)
    if not is_pickled(path):
        refuse_idle({"--allow-pickle": request.allow_pickle}, f"{request.model} is no pickled module")
    if path.suffix == ".pt2":
        if request.weights is not None:
            raise typer.BadParameter("a .pt2 file holds its own weights.", param_hint="--weights")
        return Opened(_read(path), example)
    if is_pickled(path):
        model, own = _unpickled(path, request.allow_pickle), None
    elif ":" in request.model:
        model, own = _made(request.model)
    else:
        raise FileError(
            f"cannot tell what model {request.model!r} is. Name a .pt2 file, or package.module:factory where "
            "factory() returns a torch.nn.Module."
        )
    if request.weights is not None:
        _put_weights(model, request.weights)
    return Opened(model, own if example is None else example)


def is_pickled(path: Path) -> bool:
    """Whether a file of this name is unpickled if it is named as a model."""
    return path.suffix in _PICKLED


def cut_model(opened: Opened, request: CutRequest, printer: Printer | None = None) -> Decoupled:
    """The model cut as asked; one that was cut already as it is. Of a single graph it is cut in any mode.

    `printer` prints the graph as it was captured and after every pass.

    Raises:
        typer.BadParameter: it was cut already and is asked to be cut.
        DniError: there is no example to cut it with.
        GraphError: it cannot be cut as asked.
    """
    if isinstance(opened.model, Decoupled):
        refuse_idle(request.given(), "this model is cut already", ", or name the model that it was cut from")
        if printer is not None:
            show_cut(printer, opened.model)
        return opened.model
    program = captured(opened, request.capture)
    if printer is not None:
        printer.show("captured", verbs.training_graph(program))
        program.observe = printer
    chosen = read_plan(request.plan or verbs.DEFAULT_PLAN)
    if isinstance(chosen, Plan):
        refuse_misfit(verbs.training_graph(program), chosen)
    return verbs.decouple(
        program,
        plan=chosen,
        synthesizer=_by_pattern(request.synthesizer or (), SYNTHESIZERS, "auto"),
        interface=_by_pattern(request.interface or (), INTERFACES, "dni"),
    )


def captured(opened: Opened, request: CaptureRequest) -> Program:
    """The model as a program with an example; the one graph of an exported program serves all modes.

    Raises:
        typer.BadParameter: it is a graph already, and a front-end is named.
        DniError: there is no example, or no front-end can capture the model.
    """
    carry = _edges_back(request.carry or ())
    if isinstance(opened.model, Program):
        refuse_idle({"--frontend": request.frontend}, "this file holds a graph, and not a model to capture")
        program = in_both_modes(opened.model)
        if opened.example is not None:
            program.example = verbs.example_call(program.tree, opened.example)
        return replace(program, carry=Carry(carry)) if carry else program
    if opened.example is None:
        raise DniError(
            f"an example of the inputs of {type(opened.model).__name__} is needed. Give their shapes, as in "
            "--example 32x64, or let the factory return (module, example inputs)."
        )
    return verbs.capture(
        opened.model, opened.example, frontend=request.frontend or "auto", carry=carry or None
    )


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


def _read(path: Path) -> nn.Module | Program:
    found = open_cut(path)
    return found if isinstance(found, Program) else reopened(found, path)


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
        raise FileError(f"cannot read {path}: {why(error)}.") from None
    if not isinstance(found, nn.Module):
        raise FileError(f"{path} holds a {type(found).__name__}, and not a torch.nn.Module.")
    return found


def _put_weights(model: nn.Module, weights: Path) -> None:
    state = read_state(weights)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise FileError(
            f"the weights in {weights} do not fit {type(model).__name__}: "
            f"{misfits(model.state_dict(), state) or why(error)}. Are they of another model?"
        ) from None


def _edges_back(texts: Sequence[str]) -> dict[str, str]:
    """Places of outputs by the arguments that take them in the next step."""
    edges: dict[str, str] = {}
    for text in texts:
        argument, mark, path = text.partition("=")
        if not (mark and argument and path):
            raise typer.BadParameter(f"{text!r} is not of the form ARGUMENT=OUTPUT.", param_hint="--carry")
        if argument in edges:
            raise typer.BadParameter(f"{argument} is given two outputs.", param_hint="--carry")
        edges[argument] = path
    return edges


def _by_pattern(texts: Sequence[str], known: Registry[Any], default: str) -> str | dict[str, str]:
    """One choice for all boundaries, or one for each pattern; a choice without a pattern is for the rest."""
    kind = known.kind
    choices: dict[str, str] = {}
    for text in texts:
        before, mark, after = text.partition("=")
        # A choice whose name was forgotten begins with an option, and what follows that is no choice.
        is_choice = after.partition(":")[0] in known or not takers_of(before, known)
        is_pattern = mark and ":" not in before and is_choice
        pattern, spec = (before, after) if is_pattern else ("*", text)
        if pattern in choices:
            raise typer.BadParameter(f"{pattern} is given two {kind}s.", param_hint=f"--{kind}")
        choices[pattern] = spec
    rest = choices.pop("*", default)
    return {**choices, "*": rest} if choices else rest
