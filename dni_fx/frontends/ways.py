"""The ways that a model's code takes where it depends on the numbers in a tensor."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from dni_fx.errors import CaptureError
from passes.branches import numbers

BRANCHES = frozenset({"__bool__"})
"""What an `if` asks of a tensor."""
NUMBERS = BRANCHES | {"item", "tolist", "__int__", "__float__", "__index__"}
"""All that turns the numbers in a tensor into Python's."""

Place = tuple[str, int]
"""File and line of the code that asks."""


class Record(TorchFunctionMode):
    """Notes what the code that runs in it sees of the numbers in tensors, and where."""

    def __init__(self, kinds: frozenset[str]) -> None:
        super().__init__()
        self.kinds = kinds
        self.seen: dict[Place, list[Any]] = defaultdict(list)

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if _asks(func, self.kinds):
            self.seen[_place()].append(result)
        return result


class Replay(TorchFunctionMode):
    """Lets code that is traced see what it saw in a recorded run, and leaves a `follow` each time."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.kinds = record.kinds
        self._waiting = {place: iter(seen) for place, seen in record.seen.items()}
        self._count = 0

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not _asks(func, self.kinds):
            return func(*args, **(kwargs or {}))
        place = _place()
        missing = object()
        answer = next(self._waiting.get(place, iter(())), missing)
        if answer is missing:
            file, line = place
            raise CaptureError(
                f"{Path(file).name}, line {line}, depends on the numbers in a tensor only while it is traced"
            )
        value: Tensor = args[0]
        torch.ops.dni_fx.follow(value.detach(), list(numbers(answer)), self._count)
        self._count += 1
        return answer


def _asks(func: Callable[..., Any], kinds: frozenset[str]) -> bool:
    return getattr(func, "__name__", "") in kinds


def _place() -> Place:
    """The innermost code outside of torch that is running."""
    torch_files = str(Path(torch.__file__).parent)
    frame: Any = inspect.currentframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith((torch_files, __file__)):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
