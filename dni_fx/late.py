"""True gradients that wait for batches to come, with what they belong to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dni_fx.keys import copied_under


@dataclass(frozen=True)
class Kept:
    """The detached values of one batch and their context, and the per-sample gradients that arrived there."""

    values: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    context: Tensor | None
    batch: int

    def moved(self, how: Callable[[Tensor], Tensor]) -> Kept:
        """The same with this done to every tensor."""
        context = None if self.context is None else how(self.context)
        return Kept(tuple(map(how, self.values)), tuple(map(how, self.targets)), context, self.batch)


class Late(nn.Module):
    """Keeps the last few batches in order. They are in the state dict, so a run that is resumed has them.

    With nothing kept it has no key there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._queue: deque[Kept] = deque()

    def exchange(self, kept: Kept, most: int) -> Kept | None:
        """Keep one batch more; returns the one that came `most` batches before it, if there was one."""
        self._queue.append(kept)
        found = None
        while len(self._queue) > most:
            found = self._queue.popleft()
        return found

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Late:
        self._queue = deque(kept.moved(fn) for kept in self._queue)
        return super()._apply(fn, recurse)

    @override
    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for at, kept in enumerate(self._queue):
            for kind, tensors in (("values", kept.values), ("targets", kept.targets)):
                destination |= {f"{prefix}{at}.{kind}.{i}": tensor for i, tensor in enumerate(tensors)}
            destination[f"{prefix}{at}.batch"] = torch.tensor(kept.batch)
            if kept.context is not None:
                destination[f"{prefix}{at}.context"] = kept.context

    @override
    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        mine = copied_under(state_dict, prefix)
        self._queue = deque(
            Kept(
                _numbered(mine, f"{at}.values."),
                _numbered(mine, f"{at}.targets."),
                mine.get(f"{at}.context"),
                int(mine[f"{at}.batch"]),
            )
            for at in range(sum(key.endswith(".batch") for key in mine))
        )


def _numbered(state: Mapping[str, Tensor], start: str) -> tuple[Tensor, ...]:
    """The tensors whose keys begin like this, in the order of the numbers that follow."""
    count = sum(key.startswith(start) for key in state)
    return tuple(state[f"{start}{at}"] for at in range(count))
