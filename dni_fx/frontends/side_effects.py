"""What a forward does beside computing: a graph would leave it out, or do it once for all."""

from __future__ import annotations

import random
from collections.abc import Sized
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from dni_fx.errors import CaptureError

_REGISTRIES = {*vars(nn.Module()), "_flat_weights"}  # a recurrent layer restores its list of weights


_COMPARABLE = (bytes, int, float, str, list, dict, set)


class SideEffects:
    """Notices what the code that runs between its making and `check` has done to a module."""

    def __init__(self, module: nn.Module, below: bool = False) -> None:
        self._modules = list(module.modules()) if below else [module]
        self._random = random_state()
        self._before = [_attributes(each) for each in self._modules]

    def check(self) -> None:
        """Do nothing if nothing happened that a graph would not repeat.

        Raises:
            CaptureError: random numbers were drawn outside of any operation, or attributes were set.
        """
        if not _is_same(self._random, random_state()):
            raise CaptureError("it draws random numbers that no traced operation makes")
        changed: set[str] = set()
        for module, before in zip(self._modules, self._before, strict=True):
            after = _attributes(module)
            names = before.keys() | after.keys()
            changed |= {name for name in names if not _is_same(before.get(name), after.get(name))}
        if changed := {name for name in changed if not name.startswith("_tensor_constant")}:
            raise CaptureError(f"it sets {', '.join(sorted(changed))}, which a graph would do once for all")


def random_state() -> tuple[Any, ...]:
    """The states of all generators that code commonly draws from."""
    numpy = cast("tuple[Any, ...]", np.random.get_state())
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy[1].tobytes(), numpy[2:]


def set_random_state(state: tuple[Any, ...]) -> None:
    """Go back to a state that `random_state` returned."""
    torch.set_rng_state(torch.frombuffer(bytearray(state[0]), dtype=torch.uint8))
    random.setstate(state[1])
    np.random.set_state(("MT19937", np.frombuffer(state[2], dtype=np.uint32), *state[3]))


def _attributes(module: nn.Module) -> dict[str, Any]:
    """The module's own buffers and attributes, containers with their length, to compare with later."""
    plain = {name: value for name, value in vars(module).items() if name not in _REGISTRIES}
    return {
        name: (value, len(cast("Sized", value))) if isinstance(value, list | dict | set) else value
        for name, value in (plain | vars(module)["_buffers"]).items()
    }


def _is_same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_is_same, a, b))
    if a is b or not (isinstance(a, _COMPARABLE) and type(a) is type(b)):
        return a is b
    try:
        return bool(a == b)
    except (RuntimeError, TypeError, ValueError):  # tensors inside, of which nobody asks for equality
        return False
