"""What `torch.compile` sees of an interface: three operators that it cannot look into.

A synthesizer is asked, learns and takes its step in plain PyTorch, inside of the operators, whenever the
compiled code runs. So none of its state is fixed when the code is made, and its numbers are those of the
model that is not compiled. An operator is told by a number whose it is, since it takes tensors and numbers
alone. Autograd is not bent here: `dni.py` says what goes up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch._C import (
    DispatchKeySet,
    _dispatch_tls_local_exclude_set,  # pyright: ignore[reportPrivateUsage]
    _dispatch_tls_local_include_set,  # pyright: ignore[reportPrivateUsage]
    _ForceDispatchKeyGuard,  # pyright: ignore[reportPrivateUsage]
)
from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP

from dni_fx.errors import StageError


class Interfaced(Protocol):
    """What stands behind the operators: one object for a boundary."""

    def guess(self, values: Sequence[Tensor]) -> Any:
        """What `learn` needs to know later of values that have just been made."""
        ...

    def learn(self, guessed: Any, true: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients that go up when the true ones have arrived."""
        ...


class Started(Protocol):
    """What stands behind the operators: one object for a model."""

    def start(self, batch: int, context: Tensor | None) -> None:
        """A training step begins."""
        ...


_owners: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = itertools.count()


def number_of(owner: Interfaced | Started) -> int:
    """A number by which the operators find this object for as long as it lives; a new one at each call."""
    number = next(_numbers)
    _owners[number] = owner
    return number


def owner_of(number: int) -> Any:
    """The object that has this number."""
    return _owners[number]


_LIBRARY = torch.library.Library("dni_fx", "FRAGMENT")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe)
# `begin` writes to the clock and `guess` reads it, so no compiler moves one before the other or drops it.
for _schema in (
    "begin(Tensor(a!) clock, SymInt batch, Tensor? context, int owner) -> ()",
    "guess(Tensor[] values, Tensor clock, int owner, bool autocast, ScalarType dtype) -> Tensor",
    "learn(Tensor[] true, Tensor token, int owner) -> Tensor[]",
):
    _LIBRARY.define(_schema, tags=_TAGS)


def _begin(clock: Tensor, batch: int, context: Tensor | None, owner: int) -> None:
    clock.add_(1)
    # A compiler uses the memory of its own values again; the synthesizers look at this one until backward.
    with _plainly():
        owner_of(owner).start(batch, None if context is None else context.detach().clone())


def _guess(values: Sequence[Tensor], clock: Tensor, owner: int, autocast: bool, dtype: torch.dtype) -> Tensor:
    # The code runs with autocast off: it was applied when the code was made.
    with _plainly(), torch.autocast(values[0].device.type, dtype, enabled=autocast):
        guessed = owner_of(owner).guess([value.detach() for value in values])
    # Autograd keeps the token from forward to backward and drops it with the graph, so what it carries lives
    # just as long.
    token = values[0].new_empty(0)
    vars(token)[_GUESSED] = guessed
    return token


def _learn(true: Sequence[Tensor], token: Tensor, owner: int) -> list[Tensor]:
    if _GUESSED not in vars(token):
        raise StageError(
            "cannot learn in the backward pass of a compiled model: what autograd saved in the forward pass "
            "was replaced by a copy. Run it without hooks on saved tensors, or do not compile the model."
        )
    with _plainly():
        up: Sequence[Tensor] = owner_of(owner).learn(vars(token)[_GUESSED], true)
    return [_fresh(one, other) for one, other in zip(up, true, strict=True)]


def _fresh(up: Tensor, true: Tensor) -> Tensor:
    """What goes up as an operator may return it: none of its inputs, in memory as the compiler expects it."""
    like = torch.empty_like(true)
    return up if up is not true and up.stride() == like.stride() else like.copy_(up)


_GUESSED = "_dni_fx_guessed"


def _plainly() -> AbstractContextManager[Any]:
    """Inside, PyTorch works as outside of all operators: in a kernel, autograd may be taken out."""
    return _ForceDispatchKeyGuard(*_PLAIN)


def _dispatched() -> tuple[DispatchKeySet, DispatchKeySet]:
    return _dispatch_tls_local_include_set(), _dispatch_tls_local_exclude_set()


with ThreadPoolExecutor(1) as _pool:  # a new thread has what PyTorch starts with, whoever imports this file
    _PLAIN = _pool.submit(_dispatched).result()

for _name, _kernel, _fake in (
    ("begin", _begin, lambda clock, batch, context, owner: None),
    ("guess", _guess, lambda values, clock, owner, autocast, dtype: values[0].new_empty(0)),
    ("learn", _learn, lambda true, token, owner: [torch.empty_like(each) for each in true]),
):
    _LIBRARY.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"dni_fx::{_name}", _fake, lib=_LIBRARY)


def condition_of(guards: str) -> Callable[[dict[str, Tensor]], bool]:
    """Torch's guards on tensors named t0, t1 and so on, as a function of them that a compiler can follow."""
    return eval(f"lambda L: {guards or True}", dict(SYMPY_INTERP))


def begin(clock: Tensor, batch: int, context: Tensor | None, owner: int) -> None:
    """Start a training step of the model with this number when the compiled code runs."""
    torch.ops.dni_fx.begin(clock, batch, context, owner)


def interfaced(values: tuple[Tensor, ...], clock: Tensor, owner: int) -> Any:
    """(batch, *features) to (batch, *features), unchanged: the interface in code that is being compiled.

    Several values to a tuple of them.
    """
    device = values[0].device.type
    autocast, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return _Interfaced.apply(clock, owner, autocast, dtype, *values)


class _Interfaced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, clock: Tensor, owner: int, autocast: bool, dtype: torch.dtype, *values: Tensor
    ) -> Any:
        token = torch.ops.dni_fx.guess(values, clock, owner, autocast, dtype)
        ctx.save_for_backward(token)
        ctx.owner = owner
        first, *rest = [value.view_as(value) for value in values]
        return (first, *rest) if rest else first

    @staticmethod
    def backward(ctx: Any, *true: Tensor) -> Any:
        (token,) = ctx.saved_tensors
        return None, None, None, None, *torch.ops.dni_fx.learn(true, token, ctx.owner)
