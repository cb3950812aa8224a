"""One run of the model itself on the example, and whether a graph gives the same."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dni_fx.calls import Call
from dni_fx.errors import CaptureError, first_line, reason_of
from dni_fx.frontends.idle import watched_hooks
from dni_fx.gradients import gradients_of
from dni_fx.hooks import guard_hooks, guarded_modules
from dni_fx.program import Capture
from dni_fx.randomness import kept_random_state
from dni_fx.stage import detached
from passes.branches import BranchError
from passes.code import compile_graph
from passes.shell import shell
from passes.switches import switches_kept


@dataclass(frozen=True)
class Trial:
    """What a run of the model on the example gave, and the parameters it wrote; it left no trace."""

    outputs: list[Any]
    spec: pytree.TreeSpec
    buffers: list[Tensor]
    written: dict[str, Tensor]
    gradients: list[Tensor | None]


def trial_of(model: nn.Module, call: Call) -> Trial:
    """Run the model itself and keep what it gave.

    Raises:
        CaptureError: it fails.
    """
    with trial_run(model, call) as (tree, returned):
        return _trial(tree, model, *pytree.tree_flatten(returned))


@contextlib.contextmanager
def trial_run(model: nn.Module, call: Call) -> Generator[tuple[nn.Module, Any]]:
    """Inside, the copy of the model that was run and what it returned; no trace of the run stays.

    Raises:
        CaptureError: it fails.
    """
    tree, leaves = private(model), [leaf.clone() for leaf in call.leaves]
    args, kwargs = call.form.rebuild(leaves)
    with kept_random_state():
        try:
            with watched_hooks(tree):
                returned = tree(*args, **kwargs)
        except Exception as error:  # the model's own code runs here and may raise anything
            raise CaptureError(
                f"{type(model).__name__} itself fails on the example: {type(error).__name__}: "
                f"{first_line(error)}"
            ) from error
        yield tree, returned


def try_hooks(model: nn.Module, call: Call) -> None:
    """Run the model once if it has hooks of which nobody knows yet whether they are idle.

    Raises:
        CaptureError: it fails.
    """
    guard_hooks(model)  # its first call may have put some there
    is_meta = any(parameter.is_meta for parameter in model.parameters())  # where a run would show nothing
    if not is_meta and any(guard.ran is None for guard, _ in guarded_modules(model)):
        with trial_run(model, call):
            pass


def warm_up(tree: nn.Module, model: nn.Module, call: Call) -> None:
    """Run a private copy of the model once: what it does in its first call alone is no part of a graph."""
    before = [(buffer, buffer.clone()) for buffer in tree.buffers()]
    args, kwargs = call.form.rebuild([leaf.clone() for leaf in call.leaves])
    tree(*args, **kwargs)
    with torch.no_grad():
        for buffer, kept in before:
            buffer.copy_(kept)
        theirs = dict(model.named_parameters())
        for name in _written(tree, model):
            tree.get_parameter(name).copy_(theirs[name])
    try_hooks(tree, call)


def compare(capture: Capture, model: nn.Module, call: Call, wanted: Trial) -> None:
    """Compare the graph with what the model itself gave: outputs, buffers and gradients.

    Raises:
        CaptureError: they differ.
    """
    tree = private(model)
    capture.install(tree)
    with kept_random_state():
        try:
            with switches_kept():
                outputs = compile_graph(capture.graph)(tree, *[leaf.clone() for leaf in call.leaves])
        except BranchError as error:
            raise CaptureError("what the code branches on differs between two runs on the example") from error
        except Exception as error:
            raise CaptureError(f"the captured graph fails on the example: {reason_of(error)}") from error
        found = _trial(tree, model, list(outputs), capture.out_spec)
    if wanted.spec != found.spec or not all(map(_same, wanted.outputs, found.outputs)):
        raise CaptureError("the captured graph computes something else than the model on the example")
    if not all(map(_same, wanted.buffers, found.buffers)):
        raise CaptureError("the captured graph leaves other buffers behind than the model")
    if not (wanted.written.keys() == found.written.keys() and all(map(_same, *_paired(wanted, found)))):
        names = ", ".join(sorted(wanted.written.keys() | found.written.keys()))
        raise CaptureError(f"the captured graph leaves other parameters behind than the model: {names}")
    same_number = len(wanted.gradients) == len(found.gradients)  # none where no output has a gradient
    if not (same_number and all(map(_close, wanted.gradients, found.gradients))):
        raise CaptureError(
            "the captured graph has other gradients than the model: a custom backward or a hook is not in it"
        )


def _paired(wanted: Trial, found: Trial) -> tuple[list[Tensor], list[Tensor]]:
    return list(wanted.written.values()), [found.written[name] for name in wanted.written]


def _written(tree: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a copy that are no longer what they are in the model."""
    theirs = dict(model.named_parameters())
    return {
        name: own.detach()
        for name, own in tree.named_parameters()
        if name in theirs and not is_lazy(theirs[name]) and _was_written(own, theirs[name])
    }


def _was_written(own: Tensor, theirs: Tensor) -> bool:
    has_numbers = own.layout is torch.strided and not own.is_meta
    return has_numbers and not torch.equal(own, theirs) and not _same(own, theirs)  # NaN equals NaN here


def _trial(tree: nn.Module, model: nn.Module, outputs: list[Any], spec: pytree.TreeSpec) -> Trial:
    scalars = [out.abs().sum() for out in outputs if isinstance(out, Tensor) and out.requires_grad]
    learned = [p for p in tree.parameters() if p.requires_grad]
    gradients: list[Tensor | None] = []
    if scalars and learned and not any(out.is_complex() for out in outputs if isinstance(out, Tensor)):
        total = torch.stack([scalar.float() for scalar in scalars]).sum()
        try:
            gradients = gradients_of([total], [torch.ones_like(total)], learned)
        except RuntimeError as error:
            raise CaptureError(f"its backward pass fails on the example: {first_line(error)}") from error
    return Trial(
        [detached(out) for out in outputs], spec, list(tree.buffers()), _written(tree, model), gradients
    )


def _close(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal but for the order of additions: what this is to find is gradients of another sign or size."""
    if a is None or b is None:
        return a is b or not any(each is not None and each.count_nonzero() for each in (a, b))
    a, b = (each.to_dense() if each.is_sparse else each for each in (a, b))
    scale = float(a.nan_to_num().abs().max()) if a.numel() else 0.0
    return bool(torch.allclose(a, b, rtol=1e-2, atol=1e-2 * scale, equal_nan=True))


def private(model: nn.Module) -> nn.Module:
    """A copy of the model with parameters and buffers of its own, which a run may write to.

    A parameter that only a plain attribute holds is shared: no graph would know it by name.
    """
    owned = {id(parameter) for parameter in model.parameters()}

    def copied(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            return tensor.clone()
        return _twin(tensor) if id(tensor) in owned else tensor

    return shell(model, replace=copied)


def _twin(parameter: nn.Parameter) -> Tensor:
    """The parameter over memory of its own, with what code may have marked it by, and without hooks."""
    twin = copy.deepcopy(parameter)
    if not is_lazy(parameter):
        twin.grad = parameter.grad
    vars(twin).update(vars(parameter))
    return twin


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.allclose(a, b, 0, 0, equal_nan=True))
    return type(a) is type(b) and bool(a == b)


@contextlib.contextmanager
def silence() -> Generator[None]:
    """Inside, torch does not warn of its own internals, nor print the graph of a failure that we report."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
