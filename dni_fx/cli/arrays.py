"""Batches from samples that are numbered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from dni_fx.errors import FileError
from passes.words import counted


class Samples(Protocol):
    """Some samples at once, by a tensor of their numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, numbers: Any, /) -> Tensor: ...


class Arrays:
    """Batches of `size` samples and their targets, in a new order at every pass if there is a seed.

    It says where it is and goes back there, so that a run can be resumed in the middle of a pass.
    """

    def __init__(self, x: Samples, y: Tensor, size: int, seed: int | None = None) -> None:
        self.x = x
        self.y = y
        self.size = size
        self._draw = None if seed is None else torch.Generator().manual_seed(seed)
        self._start = self._state()
        self._at = self._skip = 0

    def __len__(self) -> int:
        return len(self.batches(torch.arange(len(self.x))))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._start, at = self._state(), self._skip
        self._skip = 0
        count = len(self.x)
        order = torch.arange(count) if self._draw is None else torch.randperm(count, generator=self._draw)
        parts = self.batches(order)
        for part in parts[at:]:
            self._at = at = at + 1
            yield self.x[part], self.y[part]
        self._at = 0

    def batches(self, order: Tensor) -> tuple[Tensor, ...]:
        """The numbers of the samples of each batch, if they come in this order."""
        return order.split(self.size)

    def state_dict(self) -> dict[str, Any]:
        """How many batches of the pass were read, and what its order was drawn from."""
        return {"at": self._at, "draw": self._start if self._at else self._state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned: the next pass is the rest of that one."""
        self._skip = state_dict["at"]
        if self._draw is not None:
            self._draw.set_state(state_dict["draw"])

    def _state(self) -> Tensor | None:
        return None if self._draw is None else self._draw.get_state()


class Streams(Arrays):
    """Batches whose samples go on where those of the batch before ended, for models that carry state.

    The samples are cut into `size` stretches as long as each other, one for each place of a batch; what is
    left over at the end is left out.
    """

    def __init__(self, x: Samples, y: Tensor, size: int) -> None:
        if len(x) < size:
            raise FileError(
                f"{counted(len(x), 'sample')} cannot fill {counted(size, 'stream')}: "
                "pass a smaller --batch-size."
            )
        super().__init__(x, y, size)

    @override
    def batches(self, order: Tensor) -> tuple[Tensor, ...]:
        """The first samples of all streams, then the second ones, and so on."""
        return streams_of(order, self.size)


def streams_of(order: Tensor, size: int) -> tuple[Tensor, ...]:
    """Numbers of samples in batches of `size`, each following on the one before, place by place.

    >>> [batch.tolist() for batch in streams_of(torch.arange(7), 2)]
    [[0, 3], [1, 4], [2, 5]]
    """
    length = len(order) // size
    return tuple(order[: length * size].view(size, length).t())
