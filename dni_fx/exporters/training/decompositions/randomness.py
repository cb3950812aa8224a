"""Random numbers that a seed tells, by operators that every runtime has.

ONNX's own random operators take no seed but one that is fixed in the file, and two graphs, such as one
that runs a stage forward and one that runs it again before it goes backward, would draw other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_PRIME = 2**31 - 1
_SQUARES = 4
_MOST_DRAWS = 10_000
"""How often one part of a step draws, at most."""


@dataclass
class Source:
    """A seed, a whole number in a tensor, and how often numbers were drawn by it."""

    seed: Tensor
    draws: int = 0


_SOURCE: ContextVar[Source | None] = ContextVar("source", default=None)


@contextmanager
def drawing(seed: Tensor) -> Generator[Source]:
    """Inside, operators that draw random numbers draw them by this seed, one after another."""
    token = _SOURCE.set(source := Source(seed))
    try:
        yield source
    finally:
        _SOURCE.reset(token)


def begin(part: int) -> None:
    """Draw from here on what no other part of a step draws by the same seed."""
    source = _SOURCE.get()
    if source is not None:
        source.draws = part * _MOST_DRAWS


def uniform(shape: Sequence[Any], dtype: torch.dtype) -> Tensor:
    """Numbers in [0, 1) by the seed, the number of this draw, and the place of each.

    A place is mixed with the seed by squares modulo a prime, with multiples of the place added, so that
    nothing is larger than 62 bits. It is no good for secrets.
    """
    source = _SOURCE.get()
    if source is None:
        raise AssertionError("numbers are drawn outside of a step")
    source.draws += 1
    places = torch.arange(math.prod(shape), dtype=torch.int64)
    key = (source.seed * 1_000_003 + source.draws * 7_919 + 12_345) % _PRIME
    found = (places * 48_271 + key) % _PRIME
    for at in range(_SQUARES):
        found = (found * found + (places + 1) * (69_621 + 2 * at) + key) % _PRIME
    return (found.to(torch.float64) / _PRIME).to(dtype).clamp(max=1 - 2**-24).reshape(shape)


def native_dropout(value: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """What stays, made larger by as much as is lost, and where it stays."""
    if train is False or p == 0:
        return value.clone(), torch.ones_like(value, dtype=torch.bool)
    stays = uniform(value.shape, torch.float32) >= p
    scale = 0.0 if p == 1 else 1 / (1 - p)
    return torch.where(stays, value * scale, 0), stays


def rrelu_with_noise_functional(
    value: Tensor,
    noise: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> tuple[Tensor, Tensor]:
    """The value, what of it is negative times a slope that is drawn between these, and all slopes."""
    if not training:
        return torch.where(value > 0, value, value * (lower + upper) / 2), noise.clone()
    drawn = uniform(value.shape, value.dtype) * (upper - lower) + lower
    slopes = torch.where(value > 0, 1, drawn)
    return value * slopes, slopes


def rrelu_with_noise(value: Tensor, noise: Tensor, *options: Any, **more: Any) -> Tensor:
    """The value, what of it is negative times a slope; the slopes are put into `noise`."""
    found, slopes = rrelu_with_noise_functional(value, noise, *options, **more)
    noise.copy_(slopes)
    return found


def rrelu_with_noise_(value: Tensor, noise: Tensor, *options: Any, **more: Any) -> Tensor:
    """The value itself, what of it is negative times a slope; the slopes are put into `noise`."""
    return value.copy_(rrelu_with_noise(value, noise, *options, **more))


def bernoulli(value: Tensor, *, generator: Any = None) -> Tensor:
    """1 with the probability that is there, else 0."""
    return (uniform(value.shape, torch.float32) < value).to(value.dtype)


def bernoulli_p(value: Tensor, p: float = 0.5, *, generator: Any = None) -> Tensor:
    """1 with this probability, else 0, in the shape of a value."""
    return (uniform(value.shape, torch.float32) < p).to(value.dtype)


def bernoulli_(value: Tensor, p: float = 0.5, *, generator: Any = None) -> Tensor:
    """The value itself, which is now 1 with this probability, else 0."""
    return value.copy_(bernoulli_p(value, p))


def uniform_(value: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Any = None) -> Tensor:
    """The value itself, which is now numbers between these two."""
    return value.copy_(uniform(value.shape, value.dtype) * (high - low) + low)


def normal_(value: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """The value itself, which is now numbers of this normal distribution."""
    return value.copy_(randn_like(value) * std + mean)


def exponential_(value: Tensor, rate: float = 1.0, *, generator: Any = None) -> Tensor:
    """The value itself, which is now numbers of the exponential distribution, none of them 0."""
    # Gumbel noise is made of their logarithm.
    return value.copy_((-torch.log(1 - uniform(value.shape, value.dtype))).clamp(min=2**-25) / rate)


def zeros(size: Sequence[Any], *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Memory that is about to be filled."""
    return torch.zeros(size, dtype=dtype or torch.get_default_dtype())


def zeros_in_order(
    size: Sequence[Any], _: Sequence[int], *, dtype: torch.dtype | None = None, **of: Any
) -> Tensor:
    """Memory that is about to be filled."""
    return zeros(size, dtype=dtype)


def rand(size: Sequence[Any], *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Numbers in [0, 1)."""
    return uniform(size, dtype or torch.get_default_dtype())


def rand_like(value: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Numbers in [0, 1), in the shape of a value."""
    return uniform(value.shape, dtype or value.dtype)


def randn(size: Sequence[Any], *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Numbers of the normal distribution.

    Sources:
        Box and Muller 1958, "A Note on the Generation of Random Normal Deviates".
    """
    dtype = dtype or torch.get_default_dtype()
    radius = (-2 * torch.log(1 - uniform(size, torch.float32))).sqrt()
    return (radius * torch.cos(2 * math.pi * uniform(size, torch.float32))).to(dtype)


def randn_like(value: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Numbers of the normal distribution, in the shape of a value."""
    return randn(value.shape, dtype=dtype or value.dtype)
