"""How far values and gradients of two models are apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn


@dataclass(frozen=True)
class Gap:
    """How far a gradient is from another: the largest element of the one, and of the difference.

    It is `lone` if one of the two is not there, which is as if it were zeros.
    """

    size: float
    apart: float
    lone: bool

    def relative(self, noise: float) -> float:
        """The difference by the largest element; 0 up to `noise`."""
        if self.apart <= noise:
            return 0.0
        return float("inf") if self.lone else self.apart / self.size if self.size else self.apart


def compare_gradients(
    theirs: nn.Module, ours: nn.Module, backward: Callable[[], None], streaming: bool
) -> dict[str, Gap]:
    """How far the gradients of one model are from those that the other has, by the parameter's name.

    Those of the other are let go, each with the one that it is compared with.
    """
    found: dict[str, Gap] = {}

    def compare(name: str, parameter: Tensor) -> None:
        other = ours.get_parameter(name)
        found[name] = gap_of(parameter.grad, other.grad)
        other.grad = None

    take_gradients(theirs, backward, compare, streaming)
    return found


def take_gradients(
    model: nn.Module, backward: Callable[[], None], take: Callable[[str, Tensor], None], streaming: bool
) -> None:
    """Run backward, and hand every parameter to `take` by its name, once; then its gradient is let go.

    With `streaming` that is as soon as it has its gradient, so that never all of them are there. Each has to
    come in one piece then, as it does where no code runs backward inside of backward.
    """
    taken: set[str] = set()

    def hand(name: str, parameter: Tensor) -> None:
        take(name, parameter)
        taken.add(name)
        parameter.grad = None

    for name, parameter in model.named_parameters():
        if streaming and parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(partial(hand, name))
    backward()
    for name, parameter in model.named_parameters():
        if name not in taken:
            hand(name, parameter)


def gap_of(one: Tensor | None, other: Tensor | None) -> Gap:
    """How far a gradient is from another one."""
    a, b = _dense(one), _dense(other)
    if a is None or b is None:
        return Gap(largest_of(a), largest_of(b if a is None else a), a is not b)
    return Gap(largest_of(a), apart(a, b), False)


def _dense(gradient: Tensor | None) -> Tensor | None:
    return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient


def digest_of(gradient: Tensor | None) -> bytes:
    """The same for gradients that are equal; none at all is equal to zeros."""
    if gradient is None or not bool(gradient.to_dense().any()):
        return b""
    plain = (gradient.to_dense() + 0.0).cpu().contiguous()  # a zero below 0 is equal to one above
    return hashlib.blake2b(plain.reshape(-1).view(torch.uint8).numpy().data).digest()


def distance(a: Any, b: Any) -> float:
    """The largest difference of two outputs; infinity if they are not of one form."""
    ours, theirs = pytree.tree_flatten(a), pytree.tree_flatten(b)
    if ours[1] != theirs[1]:
        return float("inf")
    return max((apart(x, y) for x, y in zip(ours[0], theirs[0], strict=True)), default=0.0)


def apart(a: Any, b: Any) -> float:
    """The largest difference of two values; infinity if they are not of one kind."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return 0.0 if type(a) is type(b) and bool(a == b) else float("inf")
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if is_equal(a, b):
        return 0.0
    return float(
        (real_of(a).detach().double() - real_of(b).detach().double()).abs().nan_to_num(float("inf")).max()
    )


def is_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same numbers; what is not a number is equal to itself."""
    return torch.allclose(a.detach(), b.detach(), rtol=0, atol=0, equal_nan=True)


def largest_of(tensor: Tensor | None) -> float:
    """The largest element of a tensor by its size; 0 of none."""
    if tensor is not None and tensor.is_sparse:
        tensor = tensor.to_dense()
    return float(tensor.detach().abs().max()) if tensor is not None and tensor.numel() else 0.0


def real_of(tensor: Tensor) -> Tensor:
    """The tensor; of a complex one, its real and imaginary parts."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
