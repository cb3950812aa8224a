"""A value that crosses a cut, as plain data for whoever shows it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from typing_extensions import override

from passes import BoundarySpec


@dataclass(frozen=True)
class Crossing:
    """A value that crosses a cut: its boundary, its shape in terms of the batch size `b`, who reads it.

    `bytes` is its size at the example.
    """

    boundary: str
    anchor: str
    shape: tuple[int | str, ...]
    dtype: str
    bytes: int
    producer: int
    consumers: tuple[int, ...]

    @override
    def __str__(self) -> str:
        return f"{self.anchor} ({', '.join(map(str, self.shape))}) {self.dtype}"


def crossings_of(spec: BoundarySpec) -> tuple[Crossing, ...]:
    """The values of a boundary as plain data."""
    return tuple(
        Crossing(
            spec.name,
            str(value.anchor),
            value.dims,
            str(value.dtype).removeprefix("torch."),
            math.prod(value.shape) * value.dtype.itemsize,
            spec.producer,
            spec.consumers,
        )
        for value in spec.values
    )
