"""How well a synthesizer guesses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Diagnosis:
    """One guess beside the true gradient of the same batch, over all elements of a boundary's values.

    `cosine` is that of the angle between both, 0 if either is 0. `sign` is the part of the elements whose
    signs agree, nan if nobody asked for it. `error` is the length of their difference by that of the true
    gradient: 0 is perfect, and a guess of zeros has 1. `scale` is the root mean square of the true per-sample
    gradient. `mix` is the part of the true gradient that went up, and `locked` whether the guard makes it 1.
    """

    cosine: float
    sign: float
    error: float
    scale: float
    mix: float
    locked: bool


@dataclass(frozen=True)
class Sums:
    """Sums over all elements of guess and target, value by value, and the units of the guess; on the host."""

    guess_squares: tuple[float, ...]
    products: tuple[float, ...]
    target_squares: tuple[float, ...]
    units: tuple[float, ...]

    @staticmethod
    def of(guesses: Sequence[Tensor], targets: Sequence[Tensor], units: Tensor) -> Sums:
        """The sums of these guesses and targets, with one wait for the device."""
        rows: list[Tensor] = []
        for guess, target in zip(guesses, targets, strict=True):
            g, t = guess.detach().flatten().to(target.dtype), target.flatten()
            rows += [torch.dot(g, g), torch.dot(g, t), torch.dot(t, t)]
        figures = torch.cat([torch.stack(rows), units.to(rows[0].device)]).tolist()
        end = len(rows)
        guess_squares, products, target_squares = (tuple(figures[at:end:3]) for at in range(3))
        return Sums(guess_squares, products, target_squares, tuple(figures[end:]))

    def scaled(self, guess: float, target: float) -> Sums:
        """The sums of guesses and targets that are so many times as large."""
        return Sums(
            tuple(square * guess**2 for square in self.guess_squares),
            tuple(product * guess * target for product in self.products),
            tuple(square * target**2 for square in self.target_squares),
            self.units,
        )

    @property
    def is_guess_finite(self) -> bool:
        """Whether every element of the guess is finite, and its square."""
        return all(map(math.isfinite, self.guess_squares))

    @property
    def is_target_finite(self) -> bool:
        """Whether every element of the target is finite, with squares that float32 can hold."""
        return all(each <= _LARGEST for each in self.target_squares)

    @property
    def cosine(self) -> float:
        """Cosine between guess and target; 0 if either is 0 or not finite."""
        lengths = math.sqrt(self._guess) * math.sqrt(sum(self.target_squares))
        return self._product / lengths if lengths and math.isfinite(lengths) else 0.0

    @property
    def error(self) -> float:
        """Length of the difference by the length of the target; 1 if the target is 0."""
        target = sum(self.target_squares)
        return math.sqrt(max(self._guess - 2 * self._product + target, 0.0) / target) if target else 1.0

    @property
    def _guess(self) -> float:
        return sum(each * unit**2 for each, unit in zip(self.guess_squares, self.units, strict=True))

    @property
    def _product(self) -> float:
        return sum(each * unit for each, unit in zip(self.products, self.units, strict=True))


_LARGEST = torch.finfo(torch.float32).max


def sign_agreement(guesses: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """The part of all elements whose signs are the same in guess and target."""
    agreeing = sum(float((g.sign() == t.sign()).sum()) for g, t in zip(guesses, targets, strict=True))
    return agreeing / max(sum(target.numel() for target in targets), 1)
