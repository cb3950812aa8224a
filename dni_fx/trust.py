"""How much of a guess the truth bears out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni_fx.diagnosis import Sums


class Trust(nn.Module):
    """The factor that brings guesses nearest to the truth, one for each value, of the last so many steps.

    It is the least-squares factor <guess, truth> / <guess, guess> between 0 and 1, of sums over the steps,
    each in units of its true gradient, so that no step of large gradients decides alone. A learner that lags
    behind what it learns guesses in the right direction, but more than it knows; what it guesses too much is
    noise to the model, sent as if it were a gradient.
    """

    products: Tensor
    squares: Tensor

    def __init__(self, values: int) -> None:
        super().__init__()
        self.register_buffer("products", torch.zeros(values))
        self.register_buffer("squares", torch.zeros(values))
        self._known: tuple[float, ...] | None = None

    def note(self, sums: Sums, steps: int) -> None:
        """Take in one guess and its truth, with a memory of so many steps. A truth of zeros says nothing."""
        parts = zip(sums.products, sums.guess_squares, sums.target_squares, sums.units, strict=True)
        found = [
            (p * u / t, g * u * u / t) if t else (float(self.products[at]), float(self.squares[at]))
            for at, (p, g, t, u) in enumerate(parts)
        ]
        for kept, new in zip((self.products, self.squares), zip(*found, strict=True), strict=True):
            kept.lerp_(torch.tensor(new).to(kept), 1 / steps)
        self._known = None

    def factors(self) -> tuple[float, ...]:
        """The part of a guess that is to be sent, by values; 0 where nothing is known."""
        if self._known is None:
            both = zip(self.products.tolist(), self.squares.tolist(), strict=True)
            self._known = tuple(min(max(p / s, 0.0), 1.0) if s else 0.0 for p, s in both)
        return self._known

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = None
