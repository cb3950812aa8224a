"""Early release: a stage runs backward as soon as it has run forward.

With mix = 0 the gradient of everything that a stage sends on is known when it has run: its
synthesizers guess it from the values. So its backward pass need not wait, and its activations are
freed before the next stage starts. The gradients of its parameters wait here and arrive at
`loss.backward()`, where the user's loop expects them. This file and `dni.py` are the two that
bend autograd.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dni_fx.dni import DNI
from dni_fx.gradients import gradients_of
from dni_fx.stage import Road, Stage, carries_gradient, detached
from dni_fx.step import Synthesis


@dataclass
class _Run:
    """What passes between the stage and the autograd node that stands for it."""

    stage: Stage
    dnis: Sequence[DNI]
    reads: list[Any]
    live: list[int]
    written: dict[str, Any]
    syntheses: list[Synthesis]


def release(stage: Stage, values: Mapping[str, Any], dnis: Sequence[DNI]) -> dict[str, Any]:
    """Run a stage forward and at once backward; returns what it writes, boundaries included.

    `dnis` fill the stage's boundaries, in the order of `stage.crossings`, and send synthetic gradients
    alone. The one backward pass of the loss then brings the stage's gradients to its parameters and
    the true gradients to its DNIs.
    """
    reads = stage.reads(values)
    live = [i for i, value in enumerate(reads) if carries_gradient(value)]
    parameters = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    run = _Run(stage, dnis, reads, live, {}, [])
    crossing = _Release.apply(run, len(live), *[reads[i] for i in live], *parameters)
    run.reads = []
    return run.written | dict(zip(stage.crossings, crossing, strict=True))


def run_stages(road: Road, values: dict[str, Any], dnis: Mapping[str, DNI]) -> list[Any]:
    """Run stage after stage; each runs backward at once where its gradient is known by then."""
    for stage, drops in zip(road.stages, road.drops, strict=True):
        mine = [dnis[name] for name in stage.crossings]
        if stage.may_run_early(values) and all(dni.mix == 0 for dni in mine):
            values |= release(stage, values, mine)
        else:
            values |= stage.run(stage.reads(values))
            for name, dni in zip(stage.crossings, mine, strict=True):
                values[name] = dni(values[name])
        for name in drops:
            values.pop(name, None)
    return road.result(values)


def own_saved_tensors() -> AbstractContextManager[Any]:
    """Inside, what backward needs is kept as it is, whatever hooks on saved tensors were set outside.

    A checkpoint would run the whole step again to get its tensors back, and the learners would learn twice.
    """
    if _saved_tensors_hooks(False) is None:
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


_saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


class _Release(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, inputs: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in tensors[:inputs]]
            for i, leaf in zip(run.live, leaves, strict=True):
                run.reads[i] = leaf
            written = run.stage.run(run.reads)
        leaving = [written.pop(name) for name in run.stage.crossings]
        run.written = {name: detached(value) for name, value in written.items()}
        below = [value.detach() for value in leaving]
        run.syntheses = [dni.synthesize((value,)) for dni, value in zip(run.dnis, below, strict=True)]
        upward = [
            dni.upward(synthesis, (value,), (None,), 0)[0]
            for dni, synthesis, value in zip(run.dnis, run.syntheses, below, strict=True)
        ]
        ctx.run = run
        ctx.set_materialize_grads(False)
        ctx.gradients = _backward(leaving, upward, [*leaves, *tensors[inputs:]], run.stage.may_reenter)
        return tuple(below)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *true: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        run: _Run = ctx.run
        for dni, synthesis, gradient in zip(run.dnis, run.syntheses, true, strict=True):
            dni.regress(synthesis, (gradient,))
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *gradients


def _backward(
    leaving: Sequence[Tensor],
    upward: Sequence[Tensor | None],
    wanted: Sequence[Tensor],
    may_reenter: bool,
) -> Sequence[Tensor | None]:
    """Gradients of `wanted` when `upward` arrives at `leaving`. Hooks on `wanted` wait: they run later."""
    known = [(value, up) for value, up in zip(leaving, upward, strict=True) if value.requires_grad]
    if not known or not wanted:
        return [None] * len(wanted)
    hooks = [(tensor, tensor._backward_hooks) for tensor in wanted if tensor._backward_hooks]
    for tensor, _ in hooks:
        tensor._backward_hooks = None
    try:
        with torch.autocast(leaving[0].device.type, enabled=False):
            values, ups = zip(*known, strict=True)
            return gradients_of(values, ups, wanted, may_reenter)
    finally:
        for tensor, hook in hooks:
            tensor._backward_hooks = hook
