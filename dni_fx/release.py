"""Early release: a segment of stages runs backward as soon as it has run forward.

With mix = 0 the gradient of everything that a segment sends on is known when it has run: its
synthesizers guess it from the values. So its backward pass need not wait, and its activations are
freed before the next segment starts. Most segments are one stage. The gradients of its parameters
wait here and arrive at `loss.backward()`, where the user's loop expects them. This file and `dni.py`
are the two that bend autograd.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dni_fx.dni import DNI
from dni_fx.gradients import added, gradients_of
from dni_fx.segments import Leaving, Segment, segments
from dni_fx.stage import Road, detached
from dni_fx.step import Synthesis


@dataclass
class _Run:
    """What passes between the segment and the autograd node that stands for it.

    `leaving` are the boundaries that it leaves by, and `names` the values that go through them.
    """

    segment: Segment
    dnis: Mapping[str, DNI]
    values: dict[str, Any]
    live: list[str]
    leaving: list[str] = field(default_factory=list[str])
    names: list[str] = field(default_factory=list[str])
    syntheses: list[Synthesis] = field(default_factory=list[Synthesis])


def release(segment: Segment, values: Mapping[str, Any], dnis: Mapping[str, DNI]) -> dict[str, Any]:
    """Run a segment forward and at once backward; returns what it writes, boundaries included.

    The one backward pass of the loss then brings the segment's gradients to its parameters and the true
    gradients to the DNIs through which it leaves.
    """
    live = segment.read_live(values)
    run = _Run(segment, dnis, dict(values), live)
    crossing = _Release.apply(run, len(live), *[values[name] for name in live], *segment.parameters())
    written = {name: detached(value) for name, value in run.values.items() if name not in values}
    run.values = {}
    return written | dict(zip(run.names, crossing, strict=True))


def run_stages(road: Road, values: dict[str, Any], dnis: Mapping[str, DNI]) -> list[Any]:
    """Run stage after stage; each segment runs backward at once where its gradient is known by then."""
    for segment in segments(road, dnis):
        if segment.may_run_early(values):
            values |= release(segment, values, dnis)
            for name in itertools.chain.from_iterable(segment.drops):
                values.pop(name, None)
        else:
            segment.run(values, dnis)
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
        segment, leaving = run.segment, Leaving()
        asked = [_wants_gradient(name, run.dnis) for name in run.live]
        leaves = [
            each.detach().requires_grad_(wants) for each, wants in zip(tensors[:inputs], asked, strict=True)
        ]
        run.values |= zip(run.live, leaves, strict=True)
        with torch.enable_grad():
            segment.run(run.values, run.dnis, leaving)
        run.leaving, run.names = list(leaving.values), list(leaving.below)
        below = list(leaving.below.values())
        sent: list[Tensor] = []
        upward: list[Tensor | None] = []
        for name, values in leaving.values.items():
            synthesis, up = run.dnis[name].guess_up(values)
            run.syntheses.append(synthesis)
            sent += values
            upward += up
        ctx.run, ctx.zeros = run, None
        ctx.set_materialize_grads(False)
        inner = below if len(segment.stages) > 1 else []  # readers of the same segment answer here already
        wanted = [*leaves, *inner, *tensors[inputs:]]
        found = _backward(sent, upward, wanted, segment.may_reenter)
        ctx.inner = found[len(leaves) : len(leaves) + len(inner)] or [None] * len(below)
        ctx.gradients = [*found[: len(leaves)], *found[len(leaves) + len(inner) :]]
        if all(up is None for up in upward):  # gradients of zeros are made when they are asked for
            ctx.zeros = [(each.shape, each.dtype, each.device) for each in tensors]
        return tuple(value.detach() for value in below)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *true: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        run: _Run = ctx.run
        arrived = iter([added(parts) for parts in zip(true, ctx.inner, strict=True)])
        for name, synthesis in zip(run.leaving, run.syntheses, strict=True):
            dni = run.dnis[name]
            dni.regress(synthesis, tuple(itertools.islice(arrived, len(dni.spec.values))))
        gradients, ctx.gradients = ctx.gradients, None
        if ctx.zeros is not None:
            gradients = [torch.zeros(shape, dtype=dtype, device=place) for shape, dtype, place in ctx.zeros]
        return None, None, *gradients


def _wants_gradient(name: str, dnis: Mapping[str, DNI]) -> bool:
    """Whether anybody asks for the gradient of a value that a segment reads."""
    dni = dnis.get(name.partition(".")[0])  # as `value_names` has it; other values may have such names, too
    return dni is None or name not in dni.spec.names or dni.wants_truth


def _backward(
    leaving: Sequence[Tensor],
    upward: Sequence[Tensor | None],
    wanted: Sequence[Tensor],
    may_reenter: bool,
) -> Sequence[Tensor | None]:
    """Gradients of `wanted` when `upward` arrives at `leaving`. Hooks on `wanted` wait: they run later.

    What requires none has None.
    """
    both = zip(leaving, upward, strict=True)
    known = [(value, up) for value, up in both if up is not None and value.requires_grad]
    if not known or not wanted:
        return [None] * len(wanted)
    if idle := [at for at, tensor in enumerate(wanted) if not tensor.requires_grad]:
        rest = [tensor for tensor in wanted if tensor.requires_grad]
        found = iter(_backward(leaving, upward, rest, may_reenter))
        return [None if at in idle else next(found) for at in range(len(wanted))]
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
