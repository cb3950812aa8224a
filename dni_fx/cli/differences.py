"""In what two things of one kind differ, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from passes import Plan


@dataclass(frozen=True)
class Names:
    """In what two maps differ: keys that one of them lacks, and both values of the keys they share."""

    only_one: list[str]
    only_other: list[str]
    changed: dict[str, list[Any]]

    def __bool__(self) -> bool:
        return bool(self.only_one or self.only_other or self.changed)


@dataclass(frozen=True)
class Plans:
    """In what two plans differ: stages of values, and what chose and completes them."""

    values: Names
    rest: dict[str, list[str]]

    def __bool__(self) -> bool:
        return bool(self.values or self.rest)


@dataclass(frozen=True)
class Numbers:
    """By how much a tensor differs from another one of its shape.

    `elements` of `of` differ, by `largest` at the most; `relative` is the norm of the difference as a part of
    the norm of the first tensor. Both are nan where a number is not finite.
    """

    elements: int
    of: int
    largest: float
    relative: float


@dataclass(frozen=True)
class Weights:
    """In what two state dicts differ; `equal` tensors are the same to the bit."""

    names: Names
    numbers: dict[str, Numbers]
    equal: int = 0

    def __bool__(self) -> bool:
        return bool(self.names or self.numbers)


@dataclass(frozen=True)
class Differences:
    """In what two files differ, for what both of them hold; None for what was not compared."""

    graph: Names | None = None
    plan: Plans | None = None
    boundaries: Names | None = None
    weights: Weights | None = None
    synthesizers: Weights | None = None
    compared: list[str] = field(default_factory=list[str])

    def __bool__(self) -> bool:
        return any((self.graph, self.plan, self.boundaries, self.weights, self.synthesizers))


def names_apart(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> Names:
    """In what two maps differ, in the order of the first one."""
    changed = {str(key): [value, other[key]] for key, value in one.items() if key in other}
    return Names(
        [str(key) for key in one if key not in other],
        [str(key) for key in other if key not in one],
        {key: both for key, both in changed.items() if both[0] != both[1]},
    )


def plans_apart(one: Plan, other: Plan) -> Plans:
    """In what two plans differ."""
    parts = {
        name: [str(getattr(each, name)) for each in (one, other)]
        for name in ("policy", "copies", "joint", "time")
        if getattr(one, name) != getattr(other, name)
    }
    return Plans(names_apart(one.stage_of, other.stage_of), parts)


def weights_apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Weights:
    """In what two state dicts differ, and by how much."""
    kinds = names_apart(*({name: _kind(each) for name, each in state.items()} for state in (one, other)))
    shared = [name for name in one if name in other and name not in kinds.changed]
    apart = {name: numbers_apart(one[name], other[name]) for name in shared}
    numbers = {name: found for name, found in apart.items() if found.elements}
    return Weights(kinds, numbers, len(shared) - len(numbers))


def numbers_apart(one: Tensor, other: Tensor) -> Numbers:
    """By how much two tensors of one shape and type differ; they are equal if all their bits are."""
    one, other = (each.detach().cpu().contiguous().reshape(-1) for each in (one, other))
    bits = [each.view(torch.uint8) if each.numel() else each for each in (one, other)]
    if torch.equal(*bits):
        return Numbers(0, one.numel(), 0.0, 0.0)
    count = int((bits[0] != bits[1]).view(one.numel(), -1).any(-1).sum())
    kind = torch.complex128 if one.is_complex() else torch.float64
    away = one.to(kind) - other.to(kind)
    norm = float(torch.linalg.vector_norm(one.to(kind)))
    length = float(torch.linalg.vector_norm(away))
    return Numbers(count, one.numel(), float(away.abs().max()), length / norm if norm else length)


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
