"""What a way to train is to those that measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Adam


@dataclass(frozen=True)
class Way:
    """One step on this rank, what ends a row of steps, and the part of the net that is trained here.

    A step returns the loss where it is known.
    """

    part: nn.Module
    step: Callable[[Tensor, Tensor], float | None]
    end: Callable[[], None] = lambda: None


def adam(parameters: Iterable[nn.Parameter]) -> Adam:
    """What moves the weights in all ways."""
    return Adam(parameters, lr=1e-3)


class WayError(ValueError):
    """A way cannot be gone with this net on so many ranks; the text says why."""
