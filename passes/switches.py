"""What is switched on and off for the whole process while a graph runs."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from operator import attrgetter
from typing import Any

import torch

_depth: Any = attrgetter("_C._functorch.get_dynamic_layer_stack_depth")(torch)
_leave: Any = attrgetter("_C._functorch.pop_dynamic_layer_stack_and_undo_to_depth")(torch)


@contextlib.contextmanager
def switches_kept() -> Generator[None]:
    """What raises inside leaves gradients, autocasting and the nesting of `torch.func` as they were before.

    A graph switches by operations of its own, and one that raises does not come to the last of them.
    """
    has_gradients, depth, nesting = torch.is_grad_enabled(), _depth(), _autocast_nesting()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    autocast = [
        (
            each,
            torch.is_autocast_enabled(each),
            torch.get_autocast_dtype(each),
            torch.is_autocast_cache_enabled(),
        )
        for each in devices
    ]
    try:
        yield
    except BaseException:
        _leave(depth)
        torch.set_grad_enabled(has_gradients)
        for device, enabled, dtype, is_cached in autocast:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
            torch.set_autocast_cache_enabled(is_cached)
        while _autocast_nesting() > nesting:
            torch.autocast_decrement_nesting()
        if not nesting:
            torch.clear_autocast_cache()
        raise


def _autocast_nesting() -> int:
    """How many contexts of autocast are entered now; weights that were cast are kept until it is none."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()
