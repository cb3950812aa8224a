"""What a user can do, in the order they do it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dni_fx.assembly import (
    Inputs,
    capturing,
    cut_graph,
    cutting_for,
    example_call,
    example_of,
    flow_for,
    prepare,
    remember_times,
    trainable,
    training_graph,
)
from dni_fx.checks import Report, check
from dni_fx.decoupled import Decoupled, attach, cutting_of, detach, dnis
from dni_fx.dni import DNI
from dni_fx.errors import CaptureError, DniError, FileError, PlanError, first_line
from dni_fx.exporters import EXPORTERS
from dni_fx.exporters.base import Exporter, Written
from dni_fx.feedback import Carry
from dni_fx.interface import Interface
from dni_fx.modes import training_mode
from dni_fx.policies import POLICIES, Policy
from dni_fx.program import FrontEnd, Program
from dni_fx.reopened import reopened
from dni_fx.saving import open_cut, shown_program
from dni_fx.saving import save as write_cut
from dni_fx.sheet import described
from dni_fx.sources import program_of, without_numbers
from dni_fx.stage import Stage
from dni_fx.synthesizers import SYNTHESIZERS, Synthesizer
from dni_fx.training.run import train as train
from dni_fx.warning import warn
from passes import Plan, parse

DEFAULT_PLAN = "balanced:stages=2"


@capturing()
def capture(
    model: nn.Module | ExportedProgram,
    inputs: Inputs | None = None,
    *,
    frontend: str | FrontEnd = "auto",
    carry: Mapping[str, str | int] | None = None,
) -> Program:
    """Capture the training graph of a model; the model and the random state are left as they were.

    What is a graph already is taken as it is: a `torch.fx.GraphModule`, unless `frontend` asks for another,
    and an exported program, which brings an example of its own. `carry` is as for `decouple`.

    Raises:
        CaptureError: no front-end can capture the model, there is no example, or the model fails on it.
    """
    if isinstance(model, Decoupled):
        model = detach(model)
    program = program_of(model, frontend)
    if inputs is not None:
        program.example = example_call(program.tree, inputs)
    if program.example is None:
        raise CaptureError(
            f"capturing {type(model).__name__} needs an example of its inputs: a tensor, a tuple of "
            "positional arguments, or a dictionary of keyword arguments."
        )
    if carry is not None:
        program.carry = Carry(carry)
    with torch.inference_mode(False), training_mode(program.tree):
        without_numbers(program).capture(program.tree, program.example)
    return program


def plan(program: Program, policy: str | Policy | Plan = DEFAULT_PLAN) -> Plan:
    """A stage for every value of the program, as the policy chooses; printed, it is a table of its stages.

    For a policy that balances time the program is measured, once; `auto` is what synthesizers are to cost.

    Raises:
        DniError, PreconditionError: this is no program; it cannot be cut as asked, or not be measured.
        UnknownNameError, SpecError: the text does not name a policy.
    """
    chosen = parse(policy, POLICIES) if isinstance(policy, str) else policy
    gm = training_graph(program)
    if isinstance(chosen, Plan):
        PlanError.unless_none("cannot carry out the plan", chosen.problems(gm.graph))
        return described(gm, chosen)
    assert program.example is not None
    flow = flow_for(chosen, parse("auto", SYNTHESIZERS), gm, program.example.leaves)
    remember_times(program, gm)
    return described(gm, chosen.plan(flow), flow)


@capturing()
def decouple(
    model: nn.Module | ExportedProgram | Program,
    inputs: Inputs | None = None,
    *,
    plan: str | Policy | Plan = DEFAULT_PLAN,
    synthesizer: str | Synthesizer | Mapping[str, str | Synthesizer] = "auto",
    interface: str | Interface | Mapping[str, str | Interface] = "dni",
    context: str = "",
    carry: Mapping[str, str | int] | None = None,
    frontend: str | FrontEnd = "auto",
) -> Decoupled:
    """A drop-in for a model that trains in stages; it shares the model's parameters and buffers.

    Without `inputs` the model is captured and cut at its first batch; so is one on the meta device, which
    needs memory and numbers by then. `synthesizer` and `interface` are each one choice or a map from patterns
    of boundary names to choices. `context` names the model input that holds the labels, if one does;
    otherwise pass `dni_context=` when calling the result. `carry` is for models that return state which they
    are to be given again: the name of the argument, and the place of the output (`{"state": 1}`).

    Raises:
        DniError: the model is decoupled already, or has no parameters.
        CaptureError: no front-end can capture the model.
        PlanError, PreconditionError: the graph cannot be cut as asked.
        SynthesizerError: a synthesizer cannot fill a boundary.
        UnknownNameError, SpecError: a text form names nothing, or cannot be read.
    """
    if isinstance(model, Decoupled):
        raise DniError(
            "this model is decoupled already, and its synthesizers would be lost. To cut it another way, "
            "pass dni_fx.recouple(model)."
        )
    program = program_of(model, frontend)
    if inputs is not None:
        program.example = example_call(program.tree, inputs)
    program = trainable(program if carry is None else replace(program, carry=Carry(carry)))
    cut = attach(detach(program.tree), cutting_for(program, plan, synthesizer, interface, context))
    if program.example is not None:
        prepare(cut, program.example)
    return cut


@capturing()
def decouple_(model: nn.Module, inputs: Inputs | None = None, **options: Any) -> Decoupled:
    """Like `decouple`, but the model itself becomes the drop-in; after an error it is as it was.

    Raises:
        DniError: it is not a module, or as for `decouple`.
    """
    if isinstance(model, Program | ExportedProgram):
        raise DniError(f"a {type(model).__name__} cannot become a drop-in itself: dni_fx.decouple makes one.")
    cutting = cutting_of(decouple(model, inputs, **options))
    cut = attach(model, cutting)
    if cutting.program.example is not None:
        prepare(cut, cutting.program.example)
    return cut


def verify(cut: Decoupled, inputs: Inputs | None = None, *, context: Tensor | None = None) -> Report:
    """Whether a cut model is equal to its original where it must be, and cut where it must be.

    Without `inputs` the example is used that it was cut with; `context` is what `dni_context=` would be.

    Raises:
        DniError: there is no example.
    """
    call = example_of(cut, inputs)
    if any(not leaf.numel() for leaf in call.leaves):
        raise DniError("an example without samples proves nothing: pass a batch of one or more.")
    return check(cut, call, context)


def export(
    cut: Decoupled,
    path: str | os.PathLike[str],
    *,
    exporter: str | Exporter = "onnx",
    inputs: Inputs | None = None,
) -> Written:
    """Write the inference graph of a cut model, each boundary visible in it; says what was written.

    Raises:
        ExportError: the graph cannot be written in this format, or the file computes something else.
        FileError: the path cannot be written.
    """
    chosen = parse(exporter, EXPORTERS) if isinstance(exporter, str) else exporter
    return chosen.write(shown_program(cut, example_of(cut, inputs)), Path(path))


def save(cut: Decoupled, path: str | os.PathLike[str]) -> None:
    """Write a cut model to one `.pt2` file: graphs, weights, synthesizers, plan and history.

    The file replaces one that is there only when it is whole.

    Raises:
        FileError, ExportError: the model cannot be saved, or the path cannot be written.
    """
    if missing := write_cut(cut, example_of(cut, None), path):
        warn(f"{path} can be run but not trained: {missing}")


def load(
    path: str | os.PathLike[str],
    *,
    trusted: Collection[str] = (),
    map_location: str | torch.device | None = None,
) -> Decoupled:
    """Read back what `save` wrote. Nothing in the file is run, and every part of it is checked first.

    `trusted` names libraries besides torch's own whose operators the graphs may call: `mylib` of `mylib::op`.
    `map_location` is the device that the model is put on, if not the one that it was saved from.

    Raises:
        FileError: the file is missing, damaged, from a newer version, or holds no cut model; or there is no
            such device.
    """
    found = open_cut(path, trusted, _device(map_location))
    if isinstance(found, Program):
        raise FileError(f"{path} holds a plain program and no cuts: dni_fx.load_program() reads it.")
    return reopened(found, path)


def _device(asked: str | torch.device | None) -> torch.device | None:
    try:
        return None if asked is None else torch.device(asked)
    except RuntimeError as error:
        raise FileError(f"map_location={asked!r} is no device: {first_line(error)}.") from None


def load_program(
    path: str | os.PathLike[str],
    *,
    trusted: Collection[str] = (),
    map_location: str | torch.device | None = None,
) -> Program:
    """Read a model from a file of `torch.export.save`, or the model that a file of ours was cut from.

    `trusted` and `map_location` are as for `load`.

    Raises:
        FileError: the file is missing, damaged or could run code.
    """
    found = open_cut(path, trusted, _device(map_location))
    return found if isinstance(found, Program) else found.program


def recouple(cut: nn.Module) -> nn.Module:
    """The model without its DNIs, of its own class; the trained weights stay, and stay shared."""
    return detach(cut)


def stages(cut: Decoupled) -> tuple[Stage, ...]:
    """The stages of a cut model's training graph, in order.

    Raises:
        DniError: the model has seen no batch yet.
    """
    return cut_graph(cut).road.stages


def boundaries(cut: Decoupled) -> dict[str, DNI]:
    """The DNI of each boundary, by the boundary's name; empty before the first batch."""
    return dnis(cut)


def parameter_groups(cut: Decoupled) -> list[dict[str, Any]]:
    """Parameter groups for one optimizer: one per stage, then one per synthesizer without its own.

    A parameter that several stages read is in the group of the last of them. Synthesizers come only with
    `interface="dni:lr=0"`; otherwise they update themselves.
    """
    owner: dict[str, tuple[int, nn.Parameter]] = {}
    for stage in stages(cut):
        owner |= {name: (stage.index, parameter) for name, parameter in stage.named_parameters().items()}
    groups: list[dict[str, Any]] = [
        {"params": [p for at, p in owner.values() if at == stage.index], "name": f"stage {stage.index}"}
        for stage in stages(cut)
    ]
    unused = [p for name, p in detach(cut).named_parameters() if name not in owner]
    groups += [{"params": unused, "name": "unused"}] if unused else []
    free = [(name, dni) for name, dni in dnis(cut).items() if dni.optimizer is None]
    return groups + [{"params": list(dni.learner.parameters()), "name": f"dni.{name}"} for name, dni in free]
