"""Capture through torch.export."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from torch import nn
from typing_extensions import override

from dni_fx.calls import Call
from dni_fx.errors import CaptureError
from dni_fx.frontends.side_effects import SideEffects, random_state, set_random_state
from dni_fx.frontends.symbolic import first_line
from dni_fx.program import Capture, FrontEnd
from dni_fx.unlifted import capture_of


@dataclass(frozen=True)
class Export(FrontEnd):
    """Non-strict `torch.export` with a dynamic batch, down to single tensor operations.

    Mode and dtype are baked into the graph. The first dimension of every tensor input that has the
    first one's size there is the batch.
    """

    name = "export"

    @override
    def capture(self, model: nn.Module, call: Call) -> Capture:
        effects, state = SideEffects(model, below=True), random_state()
        try:
            program = exported(model, call)
            effects.check()
        finally:
            set_random_state(state)
        fixed = dict(call.form.constants)
        capture = capture_of(program, model, fixed)
        notes = [f"export: {len(capture.graph.nodes)} nodes"]
        if not any(None in size for size in capture.sizes):
            notes.append("export: the batch size is fixed, since the model computes with it as a number")
        return replace(capture, notes=tuple(notes))


def exported(model: nn.Module, call: Call) -> torch.export.ExportedProgram:
    """`torch.export` of a model for this call, its batch dynamic where the model allows it.

    Raises:
        CaptureError: torch.export refuses the model; says why in a line.
    """
    # torch.export takes an example of one for a constant; two samples leave the batch open.
    batch = call.batch
    leaves = [
        torch.cat([leaf, leaf]).detach().requires_grad_(leaf.requires_grad)
        if batch == 1 and leaf.dim() and leaf.shape[0] == 1
        else leaf
        for leaf in call.leaves
    ]
    args, kwargs = call.form.rebuild(leaves)
    shapes = torch.export.ShapesCollection()
    for leaf, before in zip(leaves, call.leaves, strict=True):
        if before.dim() and before.shape[0] == batch:
            shapes[leaf] = {0: torch.export.Dim.AUTO}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own internals
            return torch.export.export(
                model, args, kwargs, dynamic_shapes=shapes.dynamic_shapes(model, args, kwargs), strict=False
            )
    except Exception as error:  # the model's own code runs here and may raise anything
        raise CaptureError(f"{type(error).__name__}: {first_line(error)}") from error
