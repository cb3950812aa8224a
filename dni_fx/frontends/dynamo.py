"""Capture through TorchDynamo."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx, nn
from torch._dynamo import config
from typing_extensions import override

from dni_fx.calls import Call
from dni_fx.errors import CaptureError, reason_of
from dni_fx.frontends.pieces import Stitched
from dni_fx.frontends.side_effects import SideEffects
from dni_fx.frontends.trial import private, silence, warm_up
from dni_fx.hooks import refuse_busy
from dni_fx.program import Capture, FrontEnd
from dni_fx.randomness import kept_random_state
from dni_fx.sizes import size_oblivious
from passes.branches import ways_of
from passes.words import counted


@dataclass(frozen=True)
class Dynamo(FrontEnd):
    """TorchDynamo, which reads the bytecode of the model while it runs on the example.

    Where it gives up and lets Python go on (a graph break), it begins a new graph; these are joined into
    one, with what Python called in between. What Python saw of a tensor, to choose its way, is looked at
    again whenever the graph runs. A tensor made of what is no tensor is refused. Custom backwards are kept.
    """

    name = "dynamo"

    @override
    def capture(self, model: nn.Module, call: Call) -> Capture:
        with kept_random_state():
            try:
                return _captured(private(model), model, call)
            except CaptureError:
                raise
            except Exception as error:  # the model's own code runs here and may raise anything
                raise CaptureError(reason_of(error)) from error


def _captured(tree: nn.Module, model: nn.Module, call: Call) -> Capture:
    with kept_random_state():
        warm_up(tree, model, call)
    refuse_busy(tree)
    leaves = call.copies()
    stitched = Stitched(tree, call.form.names, leaves, call.varying or call.opened(()).varying)
    compiled = _compiled(tree, stitched.backend)
    effects = SideEffects(tree, below=True)
    args, kwargs = call.form.rebuild(leaves)
    with _settings(), silence(), stitched:
        returned = compiled(*args, **kwargs)
    effects.check(with_torch=False)
    outputs, spec = pytree.tree_flatten(returned)
    graph = stitched.finish(outputs)
    notes, ways = _notes(stitched, graph), ways_of(graph, stitched.constants)
    return Capture(graph, spec, stitched.constants, notes, stitched.sizes, ways=ways)


def _notes(stitched: Stitched, graph: fx.Graph) -> tuple[str, ...]:
    notes = [f"dynamo: {counted(len(graph.nodes), 'node')} in {counted(stitched.pieces, 'graph')}"]
    if ways := ways_of(graph, stitched.constants):
        notes.append(
            f"dynamo: it follows {counted(len(ways), 'branch')} on data the way that the example takes"
        )
    if not stitched.sizes.is_open:
        notes.append("dynamo: the batch size is fixed, since the model computes with it as a number")
    return tuple(notes)


def _compiled(tree: nn.Module, backend: Callable[..., Any]) -> Callable[..., Any]:
    options: dict[str, Any] = {"backend": backend}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        options["isolate_recompiles"] = True  # a user's own use of torch.compile on this code does not notice
    return torch.compile(tree, **options)


@contextlib.contextmanager
def _settings() -> Generator[None]:
    many = 2**16
    with (
        config.patch(recompile_limit=many, accumulated_recompile_limit=many, automatic_dynamic_shapes=False),
        config.patch(trace_numpy=False),  # numbers in an array cannot be looked at again
        size_oblivious(),
    ):
        yield
