"""Put a drop-in together from what a user has chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from dni_fx.calls import Call, call_of
from dni_fx.cutting import CutGraph, Cutting
from dni_fx.decoupled import Decoupled, bare, cutting_of, detach
from dni_fx.errors import CaptureError, DniError
from dni_fx.fill import Choice, fill
from dni_fx.frontends import FRONTENDS
from dni_fx.interface import INTERFACES, Interface
from dni_fx.modes import training_mode
from dni_fx.policies import POLICIES, Policy
from dni_fx.program import FrontEnd, Program, signature_of
from dni_fx.synthesizers import SYNTHESIZERS, Synthesizer
from passes import Plan, parse
from passes.dataflow import dataflow

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
"""An example of what the model is called with: a tensor, positional arguments, or keyword arguments."""


def cut_graph(cut: Decoupled) -> CutGraph:
    """The training graph that a drop-in was cut by.

    Raises:
        DniError: the model has seen no batch yet.
    """
    if not cutting_of(cut).graphs:
        raise DniError(
            "this model is not cut yet: it waits for its first batch in train mode. Run one, or give "
            "decouple() an example of the model's inputs."
        )
    return cutting_of(cut).graphs[0]


def example_call(model: nn.Module, inputs: Inputs) -> Call:
    """The call of a model that an example stands for.

    Raises:
        CaptureError: the example does not fit the model's forward.
    """
    args: Sequence[Any] = (
        (inputs,) if isinstance(inputs, Tensor) else () if isinstance(inputs, Mapping) else inputs
    )
    kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
    try:
        return call_of(signature_of(model), args, kwargs)
    except TypeError as error:
        raise CaptureError(f"the example does not fit {type(model).__name__}.forward: {error}") from None


def training_graph(program: Program) -> fx.GraphModule:
    """The annotated training graph of a captured program.

    Raises:
        DniError: nothing was captured yet.
    """
    if program.example is None:
        raise DniError("this program has no graph yet: give capture() an example of the model's inputs.")
    with training_mode(program.tree):
        return program.capture(program.tree, program.example).module(program.tree)


def prepare(cut: Decoupled, call: Call) -> None:
    """Capture and cut the training graph of a drop-in for calls like this one."""
    with training_mode(cut), torch.enable_grad():
        cutting_of(cut).graph(cut, call)


def example_of(cut: Decoupled, inputs: Inputs | None) -> Call:
    """The call that an example stands for; without one, the call that the model was cut with.

    Raises:
        DniError: there is neither.
    """
    if inputs is not None:
        return example_call(cut, inputs)
    if (known := cutting_of(cut).program.example) is None:
        raise DniError("an example of the model's inputs is needed: it was decoupled without one.")
    return known.like(cut)


def program_of(model: nn.Module, frontend: str | FrontEnd) -> Program:
    """A program over a shell of the model, with no graph yet.

    Raises:
        CaptureError: this is no model, or no graph can hold its children under their names.
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CaptureError(f"a model is a torch.nn.Module, and this is a {type(model).__name__}.")
    if taken := [name for name, _ in model.named_children() if name in vars(fx.GraphModule)]:
        raise CaptureError(
            f"cannot capture {type(model).__name__}: it has a child called {taken[0]!r}, and torch.fx "
            "needs that name for itself. Rename the child."
        )
    chosen = parse(frontend, FRONTENDS) if isinstance(frontend, str) else frontend
    return Program(detach(model), chosen, bare)


def cutting_for(
    program: Program,
    plan: str | Policy | Plan,
    synthesizer: str | Synthesizer | Mapping[str, str | Synthesizer],
    interface: str | Interface,
    context: str,
) -> Cutting:
    """How a program is to be cut, by objects or their text forms.

    Raises:
        UnknownNameError, SpecError: a text form names nothing, or cannot be read.
    """
    policy = parse(plan, POLICIES) if isinstance(plan, str) else plan
    chosen = parse(interface, INTERFACES) if isinstance(interface, str) else interface
    choice: Choice
    if isinstance(synthesizer, Mapping):
        choice = {pattern: _synthesizer(each) for pattern, each in synthesizer.items()}
    else:
        choice = _synthesizer(synthesizer)
    return Cutting(
        program,
        policy if isinstance(policy, Plan) else partial(_plan_graph, policy),
        partial(fill, choice, chosen),
        chosen.classes,
        context,
    )


def _synthesizer(choice: str | Synthesizer) -> Synthesizer:
    return parse(choice, SYNTHESIZERS) if isinstance(choice, str) else choice


def _plan_graph(policy: Policy, gm: fx.GraphModule) -> Plan:
    return policy.plan(dataflow(gm))
