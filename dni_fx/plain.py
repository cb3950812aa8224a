"""A cut model as the plain one again, in a form that needs no dni_fx to be read."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.export import ExportedProgram

from dni_fx.calls import Call, call_of
from dni_fx.decoupled import Decoupled, bare, cutting_of
from dni_fx.errors import ExportError, first_line
from dni_fx.exported import Runner, annotated, traced, with_open_batch
from dni_fx.modes import eval_mode, training_mode
from dni_fx.program import Capture, signature_of
from dni_fx.refusals import refuse_own_hooks


def plain_program(cut: Decoupled, call: Call, training: bool = False) -> ExportedProgram:
    """The graph of the model that was cut, as an exported program of torch over the trained weights.

    Raises:
        ExportError: torch.export cannot trace the graph, or a hook would be lost.
        CaptureError: there is no graph for this mode.
    """
    refuse_own_hooks(cut)
    mode = training_mode(cut) if training else eval_mode(cut)
    with mode, torch.set_grad_enabled(training):
        return export_plain(bare(cut), cutting_of(cut).graph(cut, call).capture, call)


def export_plain(tree: nn.Module, capture: Capture, call: Call) -> ExportedProgram:
    """Export the captured graph of a model over its tree; the program is called like the model itself.

    It takes the model's arguments and returns what the model returns, in the mode that the graph is for, and
    needs nothing but torch. Parameters, buffers and the places of values keep their names, so that a plan
    of the model fits its file. The batch size is open where it can be.

    Raises:
        ExportError: torch.export cannot trace the graph.
    """
    capture.install(tree)
    one_stage = dict.fromkeys((node.name for node in capture.graph.nodes), 0)
    runner = Runner(tree, annotated(capture.graph, one_stage))
    flat, signature = runner.forward, signature_of(tree)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return pytree.tree_unflatten(list(flat(*call_of(signature, args, kwargs).leaves)), capture.out_spec)

    vars(forward)["__signature__"] = signature
    runner.forward = forward
    failed: Exception | None = None
    for open_batch in (True, False):
        try:
            leaves, sizes = with_open_batch(call.leaves) if open_batch else (list(call.leaves), None)
            args, kwargs = call.form.rebuild(leaves)
            shapes = None if sizes is None else _shapes_by_name(signature, call, sizes)
            return traced(runner, args, kwargs, shapes)
        except Exception as error:  # torch.export reports one cause in several types
            failed = error
    assert failed is not None
    raise ExportError(f"cannot export the plain model: {first_line(failed)}.") from failed


def _shapes_by_name(
    signature: inspect.Signature, call: Call, sizes: Sequence[dict[int, Any] | None]
) -> dict[str, Any]:
    """The open sizes in the form of the arguments, by their names; nothing is open without a tensor."""
    form = call.form
    names, rest = dict(form.constants), iter(sizes)
    count = len(names) + len(form.names)
    args, kwargs = pytree.tree_unflatten(
        [None if i in names else next(rest) for i in range(count)], form.spec
    )
    return dict(signature.bind(*args, **kwargs).arguments)
