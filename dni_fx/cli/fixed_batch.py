"""Graphs that are right for one batch size alone, and what is said of that."""

from __future__ import annotations

import typer
from torch.export import ExportedProgram

from dni_fx.calls import Call
from dni_fx.cut_graph import CutGraph
from dni_fx.sizes import is_open


def fixed_batch(graph: CutGraph) -> int | None:
    """The only batch size that a cut graph takes, None if it takes others."""
    sizes = graph.capture.sizes
    return None if sizes.is_open else next((each[0] for each in sizes.fixed if each), None)


def batch_of(program: ExportedProgram, call: Call) -> int | None:
    """The only batch size that a program exported for this call takes, None if it takes others."""
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in inputs]
    sizes = [size for value in values for size in getattr(value, "shape", ())]
    return None if not sizes or any(map(is_open, sizes)) else call.batch


def say_fixed(batch: int | None) -> None:
    """Print that the batch size is fixed, if it is."""
    if batch is not None:
        typer.echo(
            f"the batch size is fixed to {batch}, that of the example, since the model computes with it"
        )
