"""What cannot be trained by graphs alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dni_fx.cut_graph import CutGraph
from dni_fx.dni import DNI
from dni_fx.errors import ExportError
from dni_fx.exporters.training.synthesis import refusals


def refuse_untrainable(graph: CutGraph, dnis: Mapping[str, DNI]) -> None:
    """Do nothing if a device can train what this graph says.

    Raises:
        ExportError: it cannot. Lists all that is in the way.
    """
    if problems := [*_problems(graph, dnis)]:
        listed = "".join(f"\n  * {problem}" for problem in problems)
        raise ExportError(f"cannot write a training step of this model:{listed}")


def _problems(graph: CutGraph, dnis: Mapping[str, DNI]) -> Iterator[str]:
    if graph.feedback:
        yield "it carries state from one step to the next, and graphs have none: decouple without carry="
    if graph.capture.ways:
        yield "it branches on data, and a graph could not tell when data takes another way: use torch.where"
    if not graph.road.split.in_order:
        yield (
            "run stage after stage, it would draw random numbers or write to memory in another order: use a "
            "plan that a policy has made"
        )
    warmups = {spec.name: dnis[spec.name].interface.warmup for spec in graph.marked.specs}
    if len(set(warmups.values())) > 1:
        said = ", ".join(f"warmup={warmup} at {name}" for name, warmup in warmups.items())
        yield f"true gradients go up at all boundaries of a device or at none: {said}. Say one warmup for all"
    for spec in graph.marked.specs:
        yield from (f"at {each}, which has no graph" for each in refusals(dnis[spec.name]))
