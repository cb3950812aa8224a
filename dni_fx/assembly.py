"""Put a drop-in together from what a user has chosen."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, fx, nn
from torch._guards import detect_fake_mode
from torch._subclasses import FakeTensor

from dni_fx.calls import Call, call_of
from dni_fx.cut_graph import CutGraph
from dni_fx.cutting import Cutting
from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.errors import CaptureError, DniError
from dni_fx.fill import Choice, N, fill
from dni_fx.interface import INTERFACES, Interface
from dni_fx.modes import training_mode
from dni_fx.policies import POLICIES, Policy
from dni_fx.pricing import price_all
from dni_fx.program import Program, signature_of
from dni_fx.randomness import kept_random_state
from dni_fx.synthesizers import SYNTHESIZERS, Synthesizer
from passes import Plan, Registry, parse
from passes.dataflow import dataflow
from passes.measure import measure

if TYPE_CHECKING:
    import networkx as nx

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
        CaptureError: the example does not fit the model's forward, or holds no numbers.
    """
    if not isinstance(inputs, Tensor | Sequence | Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CaptureError(
            "an example is a tensor, a tuple of positional arguments, or a dictionary of keyword arguments, "
            f"and this is a {type(inputs).__name__}. If it is the model's one argument, put it in a tuple."
        )
    args: Sequence[Any] = (
        (inputs,) if isinstance(inputs, Tensor) else () if isinstance(inputs, Mapping) else inputs
    )
    kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
    try:
        call = call_of(signature_of(model), args, kwargs)
    except TypeError as error:
        raise CaptureError(f"the example does not fit {type(model).__name__}.forward: {error}") from None
    for name, leaf in call.named().items():
        if isinstance(leaf, FakeTensor):
            raise CaptureError(
                f"{name} of the example is a fake tensor, which holds no numbers: pass a real one."
            )
    with torch.inference_mode(False):  # autograd takes no tensor that was made in inference mode
        # A tensor that is there twice would be one input of what is exported.
        again = {at for at, leaf in enumerate(call.leaves) if any(leaf is each for each in call.leaves[:at])}
        leaves = tuple(
            leaf.detach().clone().requires_grad_(leaf.requires_grad)
            if leaf.is_inference() or at in again
            else leaf
            for at, leaf in enumerate(call.leaves)
        )
    return replace(call, leaves=leaves)


def remember_times(program: Program, gm: fx.GraphModule) -> None:
    """Put what was measured of a copy of the program's training graph where its next copies take it from."""
    assert program.example is not None
    with training_mode(program.tree):
        graph = program.annotated(program.tree, program.example).graph
    for node, twin in zip(graph.nodes, gm.graph.nodes, strict=True):
        if "seconds" in twin.meta:
            node.meta["seconds"] = twin.meta["seconds"]


def training_graph(program: Program) -> fx.GraphModule:
    """The annotated training graph of a captured program.

    Raises:
        DniError: nothing was captured yet.
    """
    if not isinstance(program, Program):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DniError(f"this is a {type(program).__name__} and no program: dni_fx.capture makes one of it.")
    if program.example is None:
        raise DniError("this program has no graph yet: give capture() an example of the model's inputs.")
    with training_mode(program.tree):
        return program.annotated(program.tree, program.example).module(program.tree)


@contextmanager
def capturing() -> Generator[None]:
    """Whatever draws inside leaves the random state as it was.

    Raises:
        CaptureError: tensors are fake here, those of the random state as well.
    """
    if detect_fake_mode() is not None:
        raise CaptureError(
            "nothing can be captured in FakeTensorMode, where tensors hold no numbers. Leave it first."
        )
    with kept_random_state():
        yield


def trainable(program: Program) -> Program:
    """A program that can be cut; on the meta device without its example, so that it waits for a batch.

    Raises:
        DniError: there are no parameters.
    """
    parameters = list(program.tree.parameters())
    if not parameters:
        raise DniError(
            f"cannot decouple {type(program.tree).__name__}: it has no parameters, so nothing can learn. "
            "A quantized model keeps its weights where no gradient reaches them: decouple it before that."
        )
    # A synthesizer has numbers to start from, which `to_empty` would lose.
    return replace(program, example=None) if any(p.is_meta for p in parameters) else program


def prepare(cut: Decoupled, call: Call) -> None:
    """Capture and cut the training graph of a drop-in for calls like this one; it can be trained anywhere."""
    with torch.inference_mode(False), training_mode(cut), torch.enable_grad():
        cutting_of(cut).graph(cut, cutting_of(cut).opened(cut, call))


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


def cutting_for(
    program: Program,
    plan: str | Policy | Plan,
    synthesizer: str | Synthesizer | Mapping[str, str | Synthesizer],
    interface: str | Interface | Mapping[str, str | Interface],
    context: str,
    classes: int = 0,
) -> Cutting:
    """How a program is to be cut, by objects or their text forms.

    There is one context for all boundaries: it can have `classes`, or else as many as any interface asks for.

    Raises:
        UnknownNameError, SpecError: a text form names nothing, or cannot be read.
    """
    policy = parse(plan, POLICIES) if isinstance(plan, str) else plan
    choice, interfaces = _read(synthesizer, SYNTHESIZERS), _read(interface, INTERFACES)
    asked = interfaces.values() if isinstance(interfaces, Mapping) else (interfaces,)
    return Cutting(
        program,
        policy if isinstance(policy, Plan) else partial(_plan_graph, policy, choice),
        partial(fill, choice, interfaces),
        classes or max((each.classes for each in asked), default=0),
        context,
    )


def _read(choice: str | N | Mapping[str, str | N], registry: Registry[type[N]]) -> N | Mapping[str, N]:
    """A choice for all boundaries, or for each pattern, by objects."""
    if isinstance(choice, Mapping):
        return {
            pattern: parse(each, registry) if isinstance(each, str) else each
            for pattern, each in choice.items()
        }
    return parse(choice, registry) if isinstance(choice, str) else choice


def measure_shown(gm: fx.GraphModule, leaves: Sequence[Tensor]) -> None:
    """Measure a graph that has not been; a terminal sees how far that is.

    Raises:
        PreconditionError: a node cannot run by itself.
    """
    if all("seconds" in node.meta for node in gm.graph.nodes if node.op != "output"):
        return
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("measuring", total=None)
        measure(gm, leaves, observe=lambda done, of: bar.update(task, completed=done, total=of))


def flow_for(policy: Policy, choice: Choice, gm: fx.GraphModule, leaves: Sequence[Tensor]) -> nx.DiGraph[str]:
    """The dataflow of an annotated graph, which is measured and priced first if the policy asks.

    Raises:
        PreconditionError: it is to be measured, and a node cannot run by itself.
    """
    if "seconds" in policy.reads:
        measure_shown(gm, leaves)
    flow = dataflow(gm)
    if "synthesizer" in policy.reads:
        price_all(flow, gm, choice)
    return flow


def _plan_graph(policy: Policy, choice: Choice, gm: fx.GraphModule, leaves: Sequence[Tensor]) -> Plan:
    return policy.plan(flow_for(policy, choice, gm, leaves))
