"""Capture through torch.export."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from dni_fx.calls import Call
from dni_fx.errors import CaptureError, reason_of
from dni_fx.frontends.backwards import Backwards
from dni_fx.frontends.regions import outlined
from dni_fx.frontends.side_effects import SideEffectError, SideEffects
from dni_fx.frontends.trial import compare, private, silence, trial_of, trial_run, try_hooks, warm_up
from dni_fx.frontends.ways import BRANCHES, NUMBERS, Record, Replay
from dni_fx.hooks import refuse_busy
from dni_fx.program import Capture, FrontEnd
from dni_fx.randomness import kept_random_state
from dni_fx.sizes import size_oblivious
from dni_fx.unlifted import capture_of
from passes.branches import ways_of
from passes.shell import shell
from passes.words import counted


@dataclass(frozen=True)
class Export(FrontEnd):
    """Non-strict `torch.export` with a dynamic batch, down to single tensor operations.

    Mode and dtype are baked into the graph. The first dimension of every tensor input that has the
    first one's size there is the batch. Code that branches on the numbers in a tensor is followed the way
    that it takes on the example, and the graph looks whether other data takes the same way.
    """

    name = "export"

    @override
    def capture(self, model: nn.Module, call: Call) -> Capture:
        try_hooks(model, call)
        with kept_random_state():
            try:
                return _captured(shell(model, replace=lambda tensor: tensor), model, call)
            except SideEffectError:
                return _after_first_call(model, call)


def _captured(tree: nn.Module, model: nn.Module, call: Call) -> Capture:
    """The graph of `tree`; what it reads and `model` does not hold is a constant."""
    refuse_busy(tree)
    program = _followed(tree, call)
    capture = capture_of(program, model, dict(call.form.constants))
    constants = dict(capture.constants)
    capture = replace(capture, graph=outlined(capture.graph, constants), constants=constants)
    notes = [f"export: {counted(len(capture.graph.nodes), 'node')}"]
    if ways := ways_of(capture.graph, capture.constants):
        notes.append(
            f"export: it follows {counted(len(ways), 'branch')} on data the way that the example takes"
        )
    if not capture.sizes.is_open:
        notes.append("export: the batch size is fixed, since the model computes with it as a number")
    return replace(capture, notes=tuple(notes), ways=ways)


def _after_first_call(model: nn.Module, call: Call) -> Capture:
    """A graph of the model's second call, if it does what the first one does but for setting attributes."""
    wanted, tree = trial_of(model, call), private(model)
    with kept_random_state():
        warm_up(tree, model, call)
    capture = _captured(tree, model, call)
    compare(capture, model, call, wanted)
    return replace(
        capture, notes=(*capture.notes, "export: it is a graph of the second call, as good as the first")
    )


def _followed(model: nn.Module, call: Call) -> torch.export.ExportedProgram:
    """The model exported, along the way of the example where it cannot be exported for all."""
    try:
        return exported(model, call)
    except SideEffectError:
        raise
    except CaptureError as error:
        refusal = error
    for kinds in (BRANCHES, NUMBERS):
        with Record(kinds) as record, trial_run(model, call):
            pass
        if not record.seen:
            continue
        with _running_in(model, lambda record=record: Replay(record)):
            try:
                return exported(model, call)
            except CaptureError as error:
                refusal = error
    try:
        return exported(model, call, oblivious=False)
    except CaptureError:
        raise refusal from None


@contextlib.contextmanager
def _running_in(
    model: nn.Module,
    context: Callable[[], AbstractContextManager[Any]],
    look: Callable[[Any], None] = lambda returned: None,
    keywords: Iterable[str] = (),
) -> Generator[None]:
    """Inside, the model's forward runs in such a context, and what it returns is looked at.

    Its signature names the keywords that go into a `**kwargs`.
    """
    own = vars(model).get("forward")
    forward = model.forward

    def within(*args: Any, **kwargs: Any) -> Any:
        with context():
            returned = forward(*args, **kwargs)
        look(returned)
        return returned

    # By it torch.export names the inputs.
    vars(within)["__signature__"] = _spelled_out(inspect.signature(forward), keywords)
    vars(model)["forward"] = within
    try:
        yield
    finally:
        del vars(model)["forward"]
        if own is not None:
            vars(model)["forward"] = own


def _spelled_out(signature: inspect.Signature, keywords: Iterable[str]) -> inspect.Signature:
    """The signature with a parameter for each keyword in the place of `**kwargs`.

    What a `**kwargs` holds torch.export counts twice where it compares inputs with their dynamic sizes.
    """
    named = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    more = [keyword for keyword in keywords if keyword not in signature.parameters]
    if len(named) == len(signature.parameters) or not all(map(str.isidentifier, more)):
        return signature
    spelled = [inspect.Parameter(keyword, inspect.Parameter.KEYWORD_ONLY) for keyword in more]
    return signature.replace(parameters=[*named, *spelled])


def exported(model: nn.Module, call: Call, oblivious: bool = True) -> torch.export.ExportedProgram:
    """`torch.export` of a model for this call, its batch dynamic where the model allows it.

    Where torch can be `oblivious` of what is special about sizes of 0 and 1, the program takes them as well.

    Raises:
        CaptureError: torch.export refuses the model, or its code has side effects; says why in a line.
    """
    call = call.apart()
    args, kwargs = call.arguments()
    shapes = torch.export.ShapesCollection()
    for leaf, dims in zip(call.leaves, call.varying or call.opened(()).varying, strict=True):
        if dims:
            shapes[leaf] = dict.fromkeys(dims, torch.export.Dim.AUTO)
    effects, backwards = SideEffects(model, below=True), Backwards()
    try:
        # torch.export sets back what the code sets, so it is looked at before that.
        with (
            size_oblivious(oblivious),
            silence(),
            _running_in(model, effects.noticed, keywords=kwargs),
            _running_in(model, lambda: backwards, backwards.look),
        ):
            program = torch.export.export(
                model, args, kwargs, dynamic_shapes=shapes.dynamic_shapes(model, args, kwargs), strict=False
            )
    except Exception as error:  # the model's own code runs here and may raise anything
        raise CaptureError(reason_of(error)) from error
    effects.check()
    backwards.check()
    return program
