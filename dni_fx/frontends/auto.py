"""Capture by whichever front-end gives the better graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from typing_extensions import override

from dni_fx.calls import Call
from dni_fx.errors import CaptureError
from dni_fx.frontends.export import Export
from dni_fx.frontends.symbolic import Symbolic, first_line
from dni_fx.program import Capture, FrontEnd
from passes.code import compile_graph
from passes.shell import shell

_ENOUGH = 0.5  # of the parameters may sit in one opaque node before a finer graph is worth a try


@dataclass(frozen=True)
class Auto(FrontEnd):
    """Symbolic tracing where it gives a graph that can be cut, `torch.export` where it does not.

    With `check`, a graph is taken only if it computes what the model computes on the example, bit for
    bit from the same seed.
    """

    name = "auto"

    check: bool = True

    @override
    def capture(self, model: nn.Module, call: Call) -> Capture:
        said: list[str] = []
        coarse: Capture | None = None
        for frontend in (Symbolic(), Export()):
            try:
                found = frontend.capture(shell(model, replace=lambda tensor: tensor), call)
                if self.check:
                    _check(found, model, call)
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


def _check(capture: Capture, model: nn.Module, call: Call) -> None:
    """Compare the graph with the model on the example; neither run leaves a trace."""

    def private() -> nn.Module:
        return shell(model, replace=lambda t: t if isinstance(t, nn.Parameter) else t.clone())

    seed = torch.get_rng_state()
    args, kwargs = call.form.rebuild([leaf.clone() for leaf in call.leaves])
    try:
        wanted = private()(*args, **kwargs)
    except Exception as error:  # the model's own code runs here and may raise anything
        raise CaptureError(
            f"the model itself fails on the example: {type(error).__name__}: {first_line(error)}"
        ) from error
    torch.set_rng_state(seed)
    tree = private()
    capture.install(tree)
    outputs = compile_graph(capture.graph)(tree, *[leaf.clone() for leaf in call.leaves])
    torch.set_rng_state(seed)
    flat, spec = pytree.tree_flatten(wanted)
    if spec != capture.out_spec or not all(map(_same, flat, outputs)):
        raise CaptureError("the captured graph computes something else than the model on the example")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.allclose(a, b, 0, 0, equal_nan=True))
    return type(a) is type(b) and bool(a == b)
