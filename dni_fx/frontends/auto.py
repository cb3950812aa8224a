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
from dni_fx.frontends.side_effects import random_state, set_random_state
from dni_fx.frontends.symbolic import Symbolic, first_line
from dni_fx.program import Capture, FrontEnd, annotate_capture
from dni_fx.stage import detached
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
        wanted = _run(model, call) if self.check else None
        for frontend in (Symbolic(), Export()):
            try:
                found = frontend.capture(shell(model, replace=lambda tensor: tensor), call)
                if wanted is not None:
                    _compare(found, model, call, wanted)
                annotate_capture(found, shell(model, replace=lambda tensor: tensor), call)
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


@dataclass(frozen=True)
class _Result:
    """What a run of the model on the example gave; it left no trace."""

    outputs: list[Any]
    spec: pytree.TreeSpec
    buffers: list[Tensor]
    gradients: list[Tensor | None]


def _run(model: nn.Module, call: Call) -> _Result:
    """Run the model itself.

    Raises:
        CaptureError: it fails.
    """
    tree, leaves = _private(model), [leaf.clone() for leaf in call.leaves]
    args, kwargs = call.form.rebuild(leaves)
    seed = random_state()
    try:
        outputs, spec = pytree.tree_flatten(tree(*args, **kwargs))
        return _result(tree, outputs, spec)
    except Exception as error:  # the model's own code runs here and may raise anything
        raise CaptureError(
            f"{type(model).__name__} itself fails on the example: {type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        set_random_state(seed)


def _compare(capture: Capture, model: nn.Module, call: Call, wanted: _Result) -> None:
    """Compare the graph with what the model itself gave: outputs, buffers and gradients.

    Raises:
        CaptureError: they differ.
    """
    tree = _private(model)
    capture.install(tree)
    seed = random_state()
    outputs = compile_graph(capture.graph)(tree, *[leaf.clone() for leaf in call.leaves])
    found = _result(tree, list(outputs), capture.out_spec)
    set_random_state(seed)
    if wanted.spec != found.spec or not all(map(_same, wanted.outputs, found.outputs)):
        raise CaptureError("the captured graph computes something else than the model on the example")
    if not all(map(_same, wanted.buffers, found.buffers)):
        raise CaptureError("the captured graph leaves other buffers behind than the model")
    if not all(map(_close, wanted.gradients, found.gradients)):
        raise CaptureError(
            "the captured graph has other gradients than the model: a custom backward or a hook is not in it"
        )


def _result(tree: nn.Module, outputs: list[Any], spec: pytree.TreeSpec) -> _Result:
    scalars = [out.abs().sum() for out in outputs if isinstance(out, Tensor) and out.requires_grad]
    learned = [p for p in tree.parameters() if p.requires_grad]
    gradients: list[Tensor | None] = []
    if scalars and learned and not any(out.is_complex() for out in outputs if isinstance(out, Tensor)):
        total = torch.stack([scalar.float() for scalar in scalars]).sum()
        gradients = list(torch.autograd.grad(total, learned, allow_unused=True))
    return _Result([detached(out) for out in outputs], spec, list(tree.buffers()), gradients)


def _close(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal but for the order of additions: what this is to find is gradients of another sign or size."""
    if a is None or b is None:
        return a is b or not any(each is not None and each.count_nonzero() for each in (a, b))
    a, b = (each.to_dense() if each.is_sparse else each for each in (a, b))
    return bool(torch.allclose(a, b, rtol=1e-2, atol=1e-2 * float(a.abs().max()), equal_nan=True))


def _private(model: nn.Module) -> nn.Module:
    """A copy of the model with buffers of its own, which a run may write to."""
    return shell(model, replace=lambda t: t if isinstance(t, nn.Parameter) else t.clone())


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.allclose(a, b, 0, 0, equal_nan=True))
    return type(a) is type(b) and bool(a == b)
