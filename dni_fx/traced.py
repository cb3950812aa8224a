"""A cut model inside of code that `torch.compile` makes.

The tracer follows this file line by line, but for `_graphs_for`, which runs when the code is made. What that
function looks at is read by `_guarded` as well, so the code is made again when it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from dni_fx.calls import call_of
from dni_fx.compiled import begin, owner_of
from dni_fx.cut_graph import CutGraph
from dni_fx.cutting import Cutting
from dni_fx.errors import CaptureError
from dni_fx.hooks import hooks_of
from dni_fx.program import key_of, modules_of, signature_of

_NO_GRAPH = (
    "the cut model has no graph for a call like this one in its present state, or none without branches on "
    "data and carried state. Run one such batch before torch.compile, or leave fullgraph=True out: "
    "what cannot be compiled is then run as it is"
)


@dataclass(frozen=True)
class Fitting:
    """A graph for calls of one form: its place in `Cutting.graphs`, and those of its inputs in the flat call.

    `context` is the place of the input that holds the labels, -1 where none does. `fixed` is that of `Sizes`.
    """

    at: int
    order: tuple[int, ...]
    context: int
    fixed: tuple[tuple[int | None, ...], ...]


def run_traced(
    cutting: Cutting, tree: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any, reset: Any
) -> Any:
    """Like `Cutting.forward`, in code that is being compiled: the whole graph, nothing released early.

    Where there is no graph for this call, it is refused, or state is carried, this step is not compiled.
    """
    if cutting.carry or reset is not None:
        return _run_now(cutting, tree, args, kwargs, context, reset)
    flat, spec = pytree.tree_flatten((args, kwargs))
    places = pytree.tree_unflatten(list(range(len(flat))), spec)
    _guarded(cutting, tree)
    kinds = tuple(
        (item.dtype, item.requires_grad, item.dim()) if isinstance(item, Tensor) else (item,) for item in flat
    )
    for found in _graphs_for(cutting.number, places, kinds):
        graph = cutting.graphs[found.at]
        leaves = [flat[place] for place in found.order]
        if _fit(graph, found.fixed, leaves) and (context is None or isinstance(context, Tensor)):
            if context is None and found.context >= 0:
                context = flat[found.context]
            batches = [leaf.shape[0] for leaf in leaves if leaf.dim()]
            begin(cutting.step.clock, batches[0] if batches else 1, context, cutting.number)
            return pytree.tree_unflatten(graph.marked.whole(tree, *leaves), graph.capture.out_spec)
    return _run_now(cutting, tree, args, kwargs, context, reset)


def _run(
    cutting: Cutting, tree: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any, reset: Any
) -> Any:
    return cutting.forward(tree, args, kwargs, context, reset)


_run_now: Callable[..., Any] = torch.compiler.disable(_run, reason=_NO_GRAPH)


def _guarded(cutting: Cutting, tree: nn.Module) -> list[Any]:
    """Everything that decides which graph fits: what the tracer reads, it compares at every call."""
    state: list[Any] = [len(cutting.graphs)]
    for module in modules_of(tree):
        state.append(module.training)
        state += [len(hooks) for hooks in hooks_of(module)]
        state += [p.requires_grad for p in vars(module)["_parameters"].values() if p is not None]
    return state


def _fit(graph: CutGraph, fixed: tuple[tuple[int | None, ...], ...], leaves: Sequence[Tensor]) -> bool:
    """Like `Sizes.admit`, with sizes that the tracer keeps open."""
    for size, leaf in zip(fixed, leaves, strict=False):
        if leaf.dim() != len(size):
            return False
        for want, have in zip(size, leaf.shape, strict=True):
            if want is not None and want != have:
                return False
    return graph.marked.admits({f"t{at}": leaf for at, leaf in enumerate(leaves)})


def _graphs_for(number: int, places: Any, kinds: tuple[tuple[Any, ...], ...]) -> tuple[Fitting, ...]:
    """The graphs there are for calls of this form in the model's present state.

    `places` is the call with the running number of each argument in its place; `kinds` holds type, whether
    it requires a gradient and number of dimensions of each tensor, and what else is passed as it is.
    """
    cutting: Cutting = owner_of(number)
    if not cutting.graphs:
        return ()
    tree = cutting.graphs[0].modules[0]
    flat: list[Any] = [_stand_in(*kind) if len(kind) > 1 else next(iter(kind)) for kind in kinds]
    args, kwargs = pytree.tree_map(lambda place: flat[place], places)
    try:
        call = call_of(signature_of(tree), args, kwargs)
    except (TypeError, CaptureError):
        return ()  # the call that is not compiled says it
    key, modules = key_of(tree, call), modules_of(tree)
    where = {id(item): place for place, item in enumerate(flat)}
    order = tuple(where[id(leaf)] for leaf in call.leaves)
    named = dict(zip(call.form.names, order, strict=True))
    if cutting.context and cutting.context not in named:
        return ()
    return tuple(
        Fitting(at, order, named.get(cutting.context, -1), known.capture.sizes.fixed)
        for at, known in enumerate(cutting.graphs)
        if known.key == key
        and known.is_bound_to(modules)
        and known.has_its_hooks()
        and not known.capture.ways  # which are tried one after the other
    )


torch.compiler.assume_constant_result(_graphs_for)


def _stand_in(dtype: torch.dtype, requires_grad: bool, dim: int) -> Tensor:
    return torch.empty((1,) * dim, dtype=dtype, device="meta", requires_grad=requires_grad)
