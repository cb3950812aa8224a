"""A program from whatever a user hands in: a module, a graph, an exported program."""

from __future__ import annotations

import inspect
import keyword
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from dni_fx.archive import exported_in_training
from dni_fx.calls import call_of
from dni_fx.decoupled import Decoupled, bare, detach
from dni_fx.errors import CaptureError, FileError
from dni_fx.fields import returning_fields
from dni_fx.frontends import FRONTENDS
from dni_fx.frontends.auto import Auto
from dni_fx.frontends.captured import Captured, is_captured, is_stale
from dni_fx.program import FrontEnd, Program
from dni_fx.restored import Saved, plant, restored_class
from dni_fx.unlifted import capture_of
from passes import parse
from passes.words import counted

_WRAPPERS = {
    ("torch.nn.parallel.distributed", "DistributedDataParallel"): "module",
    ("torch.nn.parallel.data_parallel", "DataParallel"): "module",
    ("torch._dynamo.eval_frame", "OptimizedModule"): "_orig_mod",
}
"""Classes that change how another model runs, by module and name; the model's attribute in them."""

_OF_A_GRAPH = {*vars(fx.GraphModule), *vars(fx.GraphModule(nn.Module(), fx.Graph()))} - {*vars(nn.Module())}


def program_of(model: nn.Module | ExportedProgram | Program, frontend: str | FrontEnd) -> Program:
    """A program over a shell of the model; with no graph yet, unless the model is one.

    Raises:
        CaptureError: this is no model, or none that can be captured as it is.
        ShellError: something in the model cannot be copied.
    """
    if isinstance(model, Program):
        return model
    if isinstance(model, ExportedProgram):
        note = f"exported: {counted(len(model.graph.nodes), 'node')}, as they were handed in"
        return exported_program(
            model, "ExportedProgram", exported_in_training(model), "this exported program", note
        )
    if problem := next(_problems(model), ""):
        raise CaptureError(problem)
    if frontend == "auto" and is_captured(model):
        return Program(detach(model), Captured(), bare)
    chosen = parse(frontend, FRONTENDS) if isinstance(frontend, str) else frontend
    return Program(detach(model), chosen, _fresh)


def without_numbers(program: Program) -> Program:
    """The same program, and where its model is on the meta device, without the check that runs the model."""
    is_meta = any(tensor.is_meta for tensor in program.tree.parameters())
    unchecked = is_meta and isinstance(program.frontend, Auto)
    return replace(program, frontend=Auto(check=False)) if unchecked else program


def exported_program(
    exported: ExportedProgram, name: str, training: bool | None, where: str, note: str
) -> Program:
    """A program over the parameters and buffers of an exported one, with its graph and its example.

    Args:
        exported: what torch.export made.
        name: of the class that stands for the model.
        training: the mode that it was exported in, None if nothing in the graph tells.
        where: what holds it, for messages.
        note: how the graph came about, for the history.

    Raises:
        FileError: it holds no example inputs.
    """
    args, kwargs = exported.example_inputs or ((), {})
    if not (args or kwargs):
        raise FileError(f"cannot use {where}: it holds no example inputs. Export the model again.")
    signature = _signature(exported, args, kwargs)
    tree = restored_class(name, signature)()
    plant(tree, exported)
    call = call_of(signature, args, kwargs)
    capture = capture_of(exported, tree, dict(call.form.constants), (note,))
    # Where nothing in the graph depends on the mode, it serves both.
    modes = (True, False) if training is None else (training,)
    missing = (
        "it was exported in the other mode, which is part of its operations; export it again in this one."
    )
    program = Program(tree, Saved(dict.fromkeys(modes, capture), call.form, missing, where), bare, call)
    vars(tree)["_program"] = program
    return program


def _fresh(model: nn.Module) -> nn.Module:
    return returning_fields(bare(model))


def _signature(
    exported: ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> inspect.Signature:
    names = _argument_names(exported)
    if len(names) != len(args) + len(kwargs) or names[len(args) :] != list(kwargs) or not _are_names(names):
        names = [*(f"input_{i}" for i in range(len(args))), *kwargs]
    kinds = inspect.Parameter
    return inspect.Signature(
        [
            kinds(name, kinds.POSITIONAL_OR_KEYWORD if at < len(args) else kinds.KEYWORD_ONLY)
            for at, name in enumerate(names)
        ]
    )


def _argument_names(exported: ExportedProgram) -> list[str]:
    """What the arguments of the model were called; empty where the program does not tell."""
    called = next((entry for entry in exported.module_call_graph if entry.fqn == ""), None)
    if called is None or called.signature is None:
        return []
    return [str(name) for name in called.signature.forward_arg_names or ()]


def _are_names(names: Sequence[str]) -> bool:
    valid = all(name.isidentifier() and not keyword.iskeyword(name) for name in names)
    return valid and len(set(names)) == len(names)


def _problems(model: object) -> Iterator[str]:
    """Why this cannot be captured, and what to do."""
    if not isinstance(model, nn.Module):
        yield f"a model is a torch.nn.Module, and this is {_what(model)}"
        return
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        yield (
            f"cannot capture {kind}: it is a TorchScript module, whose Python code is gone. Hand in the "
            "module that it was made from."
        )
        return
    for (home, wrapper), attribute in _WRAPPERS.items():
        if isinstance(model, getattr(sys.modules.get(home), wrapper, ())):
            yield (
                f"cannot capture a model inside of {wrapper}: hand in what it wraps, model.{attribute}, and "
                "wrap the cut model afterwards where that can be."
            )
    for path, module in model.named_modules():
        if path and isinstance(module, Decoupled):
            yield (
                f"cannot capture {kind}: {path} in it is decoupled already. Put dni_fx.recouple of it in its "
                "place; the whole can then be cut."
            )
    yield from (f"cannot capture {kind}: {problem}" for problem in _unusable(model))
    held = [*dict(model.named_children()), *vars(model)["_parameters"], *vars(model)["_buffers"]]
    if taken := [name for name in held if name in _OF_A_GRAPH]:
        what = "child" if taken[0] in vars(model)["_modules"] else "tensor"
        yield (
            f"cannot capture {kind}: it has a {what} called {taken[0]!r}, and torch.fx needs that name for "
            "itself. Rename it, or hand in a module that holds the model."
        )
    if named := [path for path in _paths(model) if keyword.iskeyword(path.rpartition(".")[2])]:
        yield (
            f"cannot capture {kind}: the code of a graph cannot speak of {', '.join(named)}, since such a "
            "name is a keyword of Python. Rename it."
        )
    if isinstance(model, fx.GraphModule) and is_captured(model) and is_stale(model):
        yield f"cannot capture {kind}: its graph was changed after its code was made. Call recompile() on it."


def _paths(model: nn.Module) -> list[str]:
    """The names of all modules, parameters and buffers, each with its path."""
    found = model.named_modules(), model.named_parameters(), model.named_buffers()
    return [path for each in found for path, _ in each]


def _what(found: object) -> str:
    if isinstance(found, type):
        made = " Hand in an instance of it." if issubclass(found, nn.Module) else ""
        return f"the class {found.__name__}.{made}"
    if callable(found):
        return (
            f"a {type(found).__name__}. Wrap it in a module: a class with __init__, which holds what is "
            "trained, and forward, which calls it."
        )
    return f"a {type(found).__name__}."


def _unusable(model: nn.Module) -> Iterator[str]:
    """Parameters and buffers that hold no numbers, or none that can be trained."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            yield f"{name} has no shape yet. Run one batch through the model first."
        elif isinstance(tensor, FakeTensor):
            yield (
                f"{name} is a fake tensor, which holds no numbers. Make the model outside of "
                "FakeTensorMode; on the meta device it can be cut at its first batch."
            )
        elif tensor.is_inference():
            yield (
                f"{name} was made in inference mode and can never be trained. Make the model outside of "
                "torch.inference_mode."
            )
