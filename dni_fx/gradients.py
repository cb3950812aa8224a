"""Gradients of some tensors alone, where the graph lets it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction


def gradients_of(
    outputs: Sequence[Tensor],
    upward: Sequence[Tensor | None],
    wanted: Sequence[Tensor],
    may_reenter: bool = True,
) -> list[Tensor | None]:
    """The gradients of `wanted` when `upward` arrives at `outputs`; their `.grad` stays as it is.

    A reentrant checkpoint computes its gradients in a backward pass of its own, which fills every `.grad`
    that it comes to: it is let, and what was there is put back. Where none `may_reenter`, none is looked for.
    """
    if not (may_reenter and _is_reentrant(outputs)):
        return list(torch.autograd.grad(outputs, wanted, upward, allow_unused=True))
    before = [tensor.grad for tensor in wanted]
    for tensor in wanted:
        tensor.grad = None
    try:
        torch.autograd.backward(outputs, upward)
        return [tensor.grad for tensor in wanted]
    finally:
        for tensor, gradient in zip(wanted, before, strict=True):
            tensor.grad = gradient


def added(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of the gradients that there are; None where there is none."""
    there = [part for part in parts if part is not None]
    return functools.reduce(torch.add, there) if there else None


_MOST = 10_000


def _is_reentrant(outputs: Sequence[Tensor]) -> bool:
    """Whether a reentrant checkpoint is among the last operations that made these tensors.

    A function that Python has seen lives as long as the tensors, and is freed inside of the one after it,
    which no stack survives 50,000 times: so no more than `_MOST` are looked at.
    """
    waiting: list[Any] = [tensor.grad_fn for tensor in outputs]
    seen: set[Any] = set()
    while waiting and len(seen) < _MOST:
        function = waiting.pop()
        if function is None or function in seen:
            continue
        if getattr(function, "_forward_cls", None) is CheckpointFunction:
            return True
        seen.add(function)
        waiting += [following for following, _ in function.next_functions]
    return False


def bounded(guess: Tensor, clip: float, unit: Tensor | None = None) -> Tensor:
    """The guess, shortened to a root mean square of `clip` units if it is longer, or zeros if not finite.

    Without a unit it is 1. Where it is 0, because no true gradient has arrived yet, nothing is too long.
    """
    length = torch.linalg.vector_norm(guess)
    most = clip * math.sqrt(guess.numel())
    most = torch.full_like(length, most) if unit is None else most * unit.to(length)
    if guess.device.type != "cpu":  # asks nothing of the device
        most = torch.where(most > 0, most / length, torch.inf).clamp(max=1)
        return torch.where(length.isfinite(), guess * most, 0)
    if not math.isfinite(now := float(length)):
        return torch.zeros_like(guess)
    return guess * (most / length) if 0 < float(most) < now else guess
