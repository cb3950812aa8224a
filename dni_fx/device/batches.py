"""A batch as the graphs of a folder take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from dni_fx.device.errors import DeviceError
from dni_fx.device.manifest import Manifest, Tensor
from dni_fx.device.store import Array

NOTHING: Any = object()
"""What is given for targets where nobody asks for any."""


@dataclass(frozen=True)
class Batch:
    """Inputs, targets and context by the names of graphs, and how many samples there are."""

    inputs: dict[str, Array]
    targets: dict[str, Array]
    context: dict[str, Array]
    size: int

    @staticmethod
    def of(manifest: Manifest, inputs: Any, targets: Any) -> Batch:
        """A batch of what a caller gives, checked; without targets if they are `NOTHING`.

        Raises:
            DeviceError: something is missing, or has another type or shape than the model takes.
        """
        taken = _taken("input", manifest.inputs, inputs)
        aims = {} if targets is NOTHING else _taken("target", manifest.targets, targets)
        size = _size([*manifest.inputs, *(manifest.targets if aims else ())], {**taken, **aims})
        context = {"context": next(iter(aims.values()))} if manifest.labels_as_context and aims else {}
        return Batch(taken, aims, context, size)


def _taken(kind: str, wanted: Sequence[Tensor], given: Any) -> dict[str, Array]:
    if isinstance(given, Mapping):
        named = {str(name): each for name, each in cast("Mapping[object, Any]", given).items()}
    else:
        several = list(given) if isinstance(given, tuple | list) and len(wanted) != 1 else [given]
        if len(several) != len(wanted):
            raise DeviceError(f"the model takes {len(wanted)} {kind}s, and {len(several)} are given.")
        named = {each.name: array for each, array in zip(wanted, several, strict=True)}
    names = [each.name for each in wanted]
    if missing := [name for name in names if name not in named]:
        raise DeviceError(f"the model takes the {kind}s {', '.join(names)}; missing: {', '.join(missing)}.")
    if odd := [name for name in named if name not in names]:
        raise DeviceError(f"the model takes the {kind}s {', '.join(names)}, and not {', '.join(odd)}.")
    return {each.value: _checked(kind, each, named[each.name]) for each in wanted}


def _checked(kind: str, wanted: Tensor, given: Any) -> Array:
    try:
        array = np.asarray(given)
    except (ValueError, RuntimeError, TypeError) as error:  # such as rows of several lengths
        raise DeviceError(f"the {kind} {wanted.name} is no array: {error}.") from None
    fits = array.ndim == len(wanted.shape) and all(
        isinstance(size, str) or size == found for size, found in zip(wanted.shape, array.shape, strict=True)
    )
    if not fits:
        shape = ", ".join(map(str, wanted.shape))
        raise DeviceError(f"the {kind} {wanted.name} has shape ({shape}), and {array.shape} is given.")
    if not np.can_cast(array.dtype, wanted.dtype, "same_kind"):
        raise DeviceError(f"the {kind} {wanted.name} is {wanted.dtype}, and {array.dtype} is given.")
    return array.astype(wanted.dtype, copy=False)


def _size(wanted: Sequence[Tensor], taken: Mapping[str, Array]) -> int:
    """How many samples there are; sizes of one name are the same in all of a batch."""
    told: dict[str, dict[str, int]] = {}
    for each in wanted:
        for size, found in zip(each.shape, taken[each.value].shape, strict=True):
            if isinstance(size, str):
                told.setdefault(size, {})[each.name] = found
    for name, sizes in told.items():
        if len(set(sizes.values())) > 1:
            said = ", ".join(f"{own} has {size}" for own, size in sizes.items())
            raise DeviceError(f"the size {name} is the same in all of a batch: {said}.")
    first = [*next(iter(told.values()), {}).values()]
    size = next(iter(first or [len(array) for array in taken.values() if array.ndim]), 1)
    if not size:
        raise DeviceError("a batch has one sample at least, and this one has none.")
    return size
