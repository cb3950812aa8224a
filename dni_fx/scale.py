"""How large the gradients are that arrive at a boundary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MEMORY = 0.99
"""How much of the running mean square of the targets stays at each new one."""


class Scale(nn.Module):
    """The running root mean square of per-sample gradients, one for each value, corrected for its start at 0.

    Synthesizers predict in this unit, so that neither the batch size nor the scale of the loss matters.
    """

    mean_square: Tensor
    seen: Tensor

    def __init__(self, values: int) -> None:
        super().__init__()
        self.register_buffer("mean_square", torch.zeros(values))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self._count: int | None = None
        self._units: tuple[Tensor, int, int, Tensor] | None = None

    @property
    def count(self) -> int:
        """How often gradients were observed."""
        if self._count is None:
            self._count = int(self.seen)
        return self._count

    def units(self) -> Tensor:
        """Root mean square of each value's targets, `(values,)`; 0 before the first."""
        of, version, count = self.mean_square, self.mean_square._version, self.count
        known = self._units
        if known is None or known[0] is not of or known[1:3] != (version, count):
            units = (of / (1 - MEMORY ** max(count, 1))).sqrt()
            known = self._units = of, version, count, units
        return known[3]

    def observe(self, squares: Sequence[float]) -> None:
        """Take in the mean square of one gradient for each value."""
        mean_square = self.mean_square
        mean_square.lerp_(torch.tensor(squares, dtype=torch.float64).to(mean_square), 1 - MEMORY)
        self._count = self.count + 1
        self.seen.fill_(self._count)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._count = None
