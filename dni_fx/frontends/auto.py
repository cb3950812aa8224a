"""Capture by whichever front-end gives the better graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import fx, nn
from typing_extensions import override

from dni_fx.calls import Call
from dni_fx.errors import CaptureError
from dni_fx.frontends.export import Export
from dni_fx.frontends.symbolic import Symbolic
from dni_fx.frontends.trial import compare, trial_of
from dni_fx.program import Capture, FrontEnd, refuse_odd_outputs
from dni_fx.randomness import kept_random_state
from passes.shell import shell

_ENOUGH = 0.5  # of the parameters may sit in one opaque node before a finer graph is worth a try


@dataclass(frozen=True)
class Auto(FrontEnd):
    """Symbolic tracing where it gives a graph that can be cut, else `torch.export`, else TorchDynamo.

    With `check`, a graph is taken only if it computes what the model computes on the example in the mode that
    it is captured for, bit for bit from the same seed.
    """

    name = "auto"

    check: bool = True

    @override
    def capture(self, model: nn.Module, call: Call) -> Capture:
        said: list[str] = []
        coarse: Capture | None = None
        wanted = trial_of(model, call) if self.check else None
        if wanted is not None:
            refuse_odd_outputs(model, wanted.outputs)
        for frontend in _finer_and_finer():
            try:
                with kept_random_state():
                    found = frontend.capture(shell(model, replace=lambda tensor: tensor), call)
                if wanted is not None:
                    compare(found, model, call, wanted)
            except CaptureError as error:
                said.append(f"{frontend}: {error}")
                continue
            found = replace(found, notes=(*said, *found.notes))
            if coarse is None and (heavy := _too_heavy(found.graph, model)):
                said += [*found.notes, f"{frontend}: {heavy}, so a finer graph was tried"]
                coarse = found
                continue
            return found
        if coarse is not None:
            return replace(coarse, notes=(*said, "auto: went back to the coarser graph"))
        raise CaptureError(
            f"cannot capture {type(model).__name__} as a graph; its front-ends say:"
            + "".join(f"\n  * {line}" for line in said)
        )


def _finer_and_finer() -> Iterator[FrontEnd]:
    """The front-ends to try, the cheapest first."""
    yield Symbolic()
    yield Export()
    from dni_fx.frontends.dynamo import Dynamo  # imports much, and is seldom needed

    yield Dynamo()


def _too_heavy(graph: fx.Graph, model: nn.Module) -> str:
    """Says which submodule of several layers stayed whole although it holds most of the parameters."""
    total = sum(p.numel() for p in model.parameters())
    for node in graph.nodes:
        if node.op == "call_module":
            module = model.get_submodule(str(node.target))
            layers = sum(1 for each in module.modules() if any(True for _ in each.parameters(recurse=False)))
            if layers > 1 and sum(p.numel() for p in module.parameters()) > _ENOUGH * total:
                return f"{node.target} stayed whole with most of the parameters"
    return ""
